"""One verb per file: generate, stream_generate, embed, sweep."""
