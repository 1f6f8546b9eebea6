"""From runs to what operations ask of them: what accelerators do."""
