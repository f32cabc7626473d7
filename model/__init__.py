"""The network, the conversation, the engines, and the model that ships."""
