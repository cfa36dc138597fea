"""A server of many tuned prefixes on one model: an engine with continuous batching, and an OpenAI-compatible API."""
