"""Train any AI agent with reinforcement learning, prompt optimisation or fine-tuning."""
