"""From typed workloads, systems and plans to the plain numbers of physics."""
