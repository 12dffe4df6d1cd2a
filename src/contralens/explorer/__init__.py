"""The explorer: finished runs as pages in a browser, served locally or written as a static site. Needs no torch.

`app.create_app` is the server, `export.export` the static site; `runs.OpenRun` reads a run folder without holding its
pictures in memory. The pages themselves are built from explorer-ui/ into static/.
"""
