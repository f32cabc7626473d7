"""The engine whose model is behind a server that speaks OpenAI's chat completions with images."""
