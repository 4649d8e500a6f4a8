"""Importers: convert checkpoints of other projects without running their code.

They take a downloaded checkpoint folder of Qwen v1 or BLSP-Emo. They write a model folder that
transformers loads, or a run folder that training starts from.
"""
