"""The editor server, ``peerage lsp``: the Language Server Protocol over standard input and output.

    positions   an editor's lines and columns ↔ offsets
    pipes       standard input and output with back-pressure
    living      the connection to a peer, and what is known of it; the program's own catalogue while there is none
    runs        statements that an editor runs, and their frames
    scripts     the texts that are open, and the scripts of the workspace
    answers     the core's answers in the protocol's types
    server      which request is answered by what

Owns the protocol's own part, ``peerage/…``; see docs/editor.md. Decides nothing about the language: that is pure, in
``query``. It serves one editor, which started it and whom it obeys: as any command of its user, it asks with the home's
identity. Only a workspace's ``.peerage.toml`` is ever written.
"""
