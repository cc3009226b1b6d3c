"""Policy optimisation: the loop that GRPO and its family share, cut by subject."""
