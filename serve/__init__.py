"""A local server: OpenAI's API over bundles, and a page that shows the canvas. Needs the extra `serve`."""
