"""Workers of a command: processes of this machine or actors of a Ray cluster.

They take a picklable task and batches of items from a coordinator. They send results back as they
have them, and the items of a worker that dies go to the others.
"""
