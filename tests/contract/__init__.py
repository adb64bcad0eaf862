"""The promises of docs/semantics.md, a test each: a file for each of its sections, in the order of the document."""
