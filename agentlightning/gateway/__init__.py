"""The gateway: a pass-through in front of model servers that records every call it serves."""
