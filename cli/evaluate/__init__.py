"""Commands that measure routers: evaluate and similarity.

Read `evaluate` first, then `run` (the measurements), `report` (tables and the HTML file, by `report.html.jinja`) and
`plots`.
"""
