"""What reports share: figure style, HTML, Markdown, intervals."""
