"""The layout of a batch, and what is taken of it: by hand."""

import pickle
from dataclasses import replace

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.types import Group
from tests.fakes import make_prompt, make_response


def make_batch() -> TrainBatch:
    """Three rows of 4, 2 and 3 tokens; the first response holds the pad id 0, inside and at its end."""
    long, short = make_prompt(0, token_ids=(5, 6)), make_prompt(1, token_ids=(7,))
    groups = [
        Group(long, (make_response(0, 0, log_prob=-0.5),)),
        Group(short, (make_response(8, log_prob=-1.5), make_response(0, 9, log_prob=-2.5))),
    ]
    return TrainBatch.from_groups(groups)


def test_layout_by_hand() -> None:
    """Catches a response mask made from `!= pad`, log-probs shifted by one, and rows in another order."""
    batch = make_batch()
    assert batch.input_ids.tolist() == [[5, 6, 0, 0], [7, 8, 0, 0], [7, 0, 9, 0]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert batch.rollout_log_probs.tolist() == [[0, 0, -0.5, -0.5], [0, -1.5, 0, 0], [0, -2.5, -2.5, 0]]
    assert (batch.advantages, batch.ref_log_probs, batch.old_log_probs) == (None, None, None)
    assert (len(batch), batch.lengths, batch.num_response_tokens) == (3, [4, 2, 3], 5)


def test_packed_responses_make_the_same_batch() -> None:
    """Catches arrays that lose precision or a token, an inserted token that trains, and a count of the wrong mask."""
    prompt = make_prompt(0, token_ids=(5, 6))
    plain = Group(prompt, (make_response(151_935, 0, 9, log_prob=-0.1, inserted=[1]), make_response(7)))
    packed = Group(prompt, tuple(pickle.loads(pickle.dumps(response.packed())) for response in plain.responses))
    expected, batch = TrainBatch.from_groups([plain]), TrainBatch.from_groups([packed])
    assert batch.input_ids.tolist() == [[5, 6, 151_935, 0, 9], [5, 6, 7, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 0, 1], [0, 0, 1, 0, 0]]
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(batch.response_mask, expected.response_mask)
    assert torch.equal(batch.rollout_log_probs, expected.rollout_log_probs)
    assert [response.num_tokens for response in packed.responses] == [2, 1]


def test_types() -> None:
    """Catches float64 or int32 tensors, which a model on a device refuses or slows down."""
    batch = make_batch().with_advantages(torch.tensor([1.0, 2.0, 3.0]))
    assert batch.advantages is not None
    types = (batch.input_ids.dtype, batch.response_mask.dtype, batch.rollout_log_probs.dtype, batch.advantages.dtype)
    assert types == (torch.int64, torch.bool, torch.float32, torch.float32)


def test_rows_of_tokens() -> None:
    """Catches a supervised row whose prompt trains, or padding at the left."""
    batch = TrainBatch.from_tokens([([1, 2, 3], [4]), ([5], [])])
    assert batch.input_ids[:, 0].tolist() == [1, 5]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert not batch.rollout_log_probs.any()


def test_advantages_stand_on_response_tokens_alone() -> None:
    """Catches advantages on the prompt, which would train it."""
    batch = make_batch().with_advantages(torch.tensor([1.0, -2.0, 0.5]))
    assert batch.advantages is not None
    assert batch.advantages.tolist() == [[0, 0, 1, 1], [0, -2, 0, 0], [0, 0.5, 0.5, 0]]


def test_select_trims_and_keeps_order() -> None:
    """Catches rows that come back sorted, padding that is never cut, and tensors that are not cut alike."""
    batch = make_batch().with_advantages(torch.tensor([1.0, -2.0, 0.5]))
    chosen = batch.select([2, 1])
    assert chosen.input_ids.tolist() == [[7, 0, 9], [7, 8, 0]]
    assert chosen.attention_mask.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert chosen.response_mask.int().tolist() == [[0, 1, 1], [0, 1, 0]]
    assert chosen.rollout_log_probs.tolist() == [[0, -2.5, -2.5], [0, -1.5, 0]]
    assert chosen.advantages is not None
    assert chosen.advantages.tolist() == [[0, 0.5, 0.5], [0, -2, 0]]
    assert chosen.ref_log_probs is None
    assert chosen.lengths == [3, 2]


def test_inserted_tokens_are_read_and_do_not_train() -> None:
    """Catches a tool's answer that trains as if the policy had written it, or that is cut from what it reads."""
    response = replace(
        make_response(8, 3, 4, 9), loss_mask=(True, False, False, True), log_probs=(-1.0, 0.0, 0.0, -2.0)
    )
    batch = TrainBatch.from_groups([Group(make_prompt(0, token_ids=(5,)), (response, make_response(7)))])
    assert batch.input_ids.tolist() == [[5, 8, 3, 4, 9], [5, 7, 0, 0, 0]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 1, 0, 0, 1], [0, 1, 0, 0, 0]]
    assert batch.rollout_log_probs.tolist() == [[0, -1, 0, 0, -2], [0, -1, 0, 0, 0]]
    assert (batch.num_response_tokens, batch.lengths) == (3, [5, 2])


def test_select_keeps_numbers_of_whole_rows() -> None:
    """Catches a tensor of one number a row that is cut as if it had columns, or that stays in the old order."""
    batch = replace(make_batch(), ref_sequence_log_probs=torch.tensor([-1.0, -2.0, -3.0]))
    chosen = batch.select([1, 0]).ref_sequence_log_probs
    assert chosen is not None
    assert chosen.tolist() == [-2.0, -1.0]


def test_placeholder_trains_nothing() -> None:
    """Catches a stand-in that trains its row a second time, that a model cannot take, or that changes the batch."""
    batch = make_batch()
    placeholder = batch.placeholder(2)
    assert placeholder.input_ids.tolist() == [[5, 6, 0, 0], [7, 8, 0, 0]]
    assert placeholder.num_response_tokens == 0
    assert placeholder.attention_mask.any(-1).all()
    assert batch.num_response_tokens == 5


def test_masked_responses_count_nowhere() -> None:
    """Catches an ungraded response that trains, rows chosen the other way round, and weights that still count it."""
    masked = make_batch().mask_responses(torch.tensor([True, False, False]))
    assert masked.response_mask.int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    weights = masked.with_loss_weights("token", 4).loss_weights
    assert weights is not None
    torch.testing.assert_close(weights, masked.response_mask / 3)


def test_mini_batches_by_hand() -> None:
    """Catches rows that are lost or shuffled, and weights over the whole batch: each part is one optimizer step.

    Three tokens in each part, six in the batch.
    """
    first, second = make_batch().select([0, 1, 2, 1]).mini_batches(2, "token", 4)
    assert first.input_ids.tolist() == [[5, 6, 0, 0], [7, 8, 0, 0]]
    assert second.input_ids.tolist() == [[7, 0, 9], [7, 8, 0]]
    assert first.loss_weights is not None
    assert second.loss_weights is not None
    torch.testing.assert_close(first.loss_weights, first.response_mask / 3)
    torch.testing.assert_close(second.loss_weights, second.response_mask / 3)


def test_rows_without_advantage_are_dropped() -> None:
    """Catches weights made anew, with which the rest would count more, a masked row kept, and an empty step."""
    batch = make_batch().with_loss_weights("token", 4)
    kept = batch.with_advantages(torch.tensor([0.0, -1.0, 2.0])).drop_zero_advantage()
    assert kept.input_ids.tolist() == [[7, 8, 0], [7, 0, 9]]
    assert kept.loss_weights is not None
    torch.testing.assert_close(kept.loss_weights, kept.response_mask / 5)
    given = batch.with_advantages(torch.tensor([1.0, -1.0, 0.0])).mask_responses(torch.tensor([True, False, False]))
    assert given.drop_zero_advantage().input_ids.tolist() == [[7, 8]]
    assert len(batch.with_advantages(torch.zeros(3)).drop_zero_advantage()) == 3


def test_mean_advantages_by_hand() -> None:
    """Catches a mean over padding or inserted tokens, and a division by 0 for a row that is masked."""
    batch = replace(make_batch(), advantages=torch.tensor([[9.0, 9, 1, 3], [9, 5, 9, 9], [9, 7, 8, 9]]))
    masked = batch.mask_responses(torch.tensor([False, False, True]))
    assert masked.mean_advantages.tolist() == [2.0, 5.0, 0.0]
