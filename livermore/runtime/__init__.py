"""The only tasks. Each file is one idea and says who owns its task and how it ends.

Five nouns: the **connection** is one socket's life; the **writer** is the only one that stores
candles; **repairs** turn gaps into REST requests; **readings** follow what was stored; the **feed**
holds them together under its **lease**.
"""
