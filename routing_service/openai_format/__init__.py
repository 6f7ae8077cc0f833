"""What clients send and get, in the forms of the OpenAI API: keys, files, lines of a batch file, chat bodies, results.

Read `line` first (one checked line of an upload), then `body` (what of a chat body is allowed and sent upstream),
`output` (the lines of output and error files), `files` and `keys`.
"""
