"""``peerage repl``: the prompt at which people meet a federation.

    typed text → Line (command | statements | script file) → Shell → frames → view (peers.terminal_view)
                                                                            → what is kept of the last answer

Owns the prompt: what one line means (lines), what commands there are (commands), completion, signatures and the toolbar
(prompting), history (history), what is written to files (exports), what a person wants of a terminal (preferences).
Refuses to know the language: grammar, completion and signatures are query's, running is peers.client's.

Rules: a statement goes to the peer as it was typed; Ctrl-C cancels it everywhere it runs and leaves the session as it
was; where standard input or output is no terminal there is no prompt, and what is shown is plain text.
"""
