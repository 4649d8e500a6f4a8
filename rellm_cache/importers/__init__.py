"""Importers: convert checkpoints of other projects without running their code.

Input: a downloaded checkpoint folder of Qwen v1 or BLSP-Emo. Output: a model folder that
transformers loads, or a run folder that training starts from.
"""
