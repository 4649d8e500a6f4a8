"""Corpora: from folders of audio to manifests of utterances."""
