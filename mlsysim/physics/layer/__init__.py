"""One layer: what it computes, keeps and sends, and how ranks share it."""
