"""The page's own files: HTML, CSS and JavaScript, put together by `calmgrad.explain.page`."""
