"""Batches: each part keeps the data of its clips."""

import torch

from rellm_cache.data.batch import Batch, Target


def test_a_part_of_a_batch_keeps_what_belongs_to_its_clips() -> None:
    says = [
        Target("response_lm", (1, 2, 3)),
        Target("emotion_lm", (4,)),
        Target("response_lm", (5, 6)),
    ]
    batch = Batch(
        ids=("a", "b", "c"),
        streams={"speech": torch.arange(3 * 8 * 2).reshape(3, 8, 2).half()},
        frame_lengths=torch.tensor([8, 5, 3]),
        emotions=torch.tensor([0, 1, 2]),
        vad=torch.zeros(3, 3),
        targets=((says[0],), (says[1], says[2]), ()),
        teacher=torch.arange(5 * 3.0).reshape(5, 3),  # a row for each token of a response
    )
    first, rest = batch.part(slice(0, 1)), batch.part(slice(1, 3))
    assert (first.ids, rest.ids) == (("a",), ("b", "c"))
    assert torch.equal(
        rest.streams["speech"], batch.streams["speech"][1:, :5]
    )  # padded no longer than they need
    assert rest.targets == batch.targets[1:]
    assert rest.frame_lengths.tolist() == [5, 3]
    assert first.teacher is not None
    assert rest.teacher is not None
    assert torch.equal(torch.cat([first.teacher, rest.teacher]), batch.teacher)
    assert len(rest.teacher) == 2
