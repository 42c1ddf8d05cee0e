"""A page that runs an exported model in the browser: what it is made of, and a server to try it with."""
