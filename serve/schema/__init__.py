"""What a request may say: the project's own API, and OpenAI's chat completions."""
