"""One HTML file that shows a run: who contributed what, what training did, what it cost, and whether it is better.

`folder` reads the run, one module per section makes charts and tables of it, `page` puts them into the template.
Nothing here needs Ray or torch, and nothing is written but the file.
"""
