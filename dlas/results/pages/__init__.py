"""The report as a page: chapters of text, tables and figures, written as HTML and as Markdown."""
