"""Dawid-Skene: by hand, on planted annotators, and in the annotators' report."""

import numpy as np
import pytest

from annotate_app.reports.dawid_skene import DawidSkene, Labels, dawid_skene


def test_unanimous_labels_by_hand():
    # Two annotators agree on items 0, 1 (class 0) and 2 (class 1): truth stays where all votes are.
    found = dawid_skene([(i, k, c) for i, c in enumerate((0, 0, 1)) for k in (0, 1)], num_classes=2)
    assert found.truth.round(6).tolist() == pytest.approx(np.array([[1, 0], [1, 0], [0, 1]]), abs=0.05)
    # about (2 + 1) / (2 + 1) of class-0 items were called 0: one belief on the diagonal, none off it
    assert found.accuracy() == pytest.approx([1, 1], abs=0.02)


def test_one_step_of_each_kind_by_hand():
    # Item 0: annotators 0, 1 say class 0, annotator 2 says 1. Item 1: all say 1. Votes: [2/3, 1/3], [0, 1].
    given = Labels([(0, 0, 0), (0, 1, 0), (0, 2, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)], 2)
    confusion, prior = given.maximise(np.array([[2 / 3, 1 / 3], [0, 1]]))
    assert prior.tolist() == pytest.approx([1 / 3, 2 / 3])
    # annotator 0, class 0: said 0 with 2/3 and the belief 1 -> (5/3) / (5/3); class 1: 1/3 said 0, 1 + 1 said 1 -> 1/7, 6/7
    assert confusion[0].tolist() == [pytest.approx([1, 0]), pytest.approx([1 / 7, 6 / 7])]
    # annotator 2, class 0: belief 1 and 2/3 said 1 -> 3/5, 2/5; class 1: all said 1
    assert confusion[2].tolist() == [pytest.approx([3 / 5, 2 / 5]), pytest.approx([0, 1])]
    # item 0: class 0 has 1/3 * 1 * 1 * 2/5 = 2/15, class 1 has 2/3 * 1/7 * 1/7 * 1 = 2/147: 2/15 / (2/15 + 2/147) = 49/54
    assert given.expect(confusion, prior)[0].tolist() == pytest.approx([49 / 54, 5 / 54])


def test_planted_annotators_are_told_apart_without_knowing_the_truth():
    rng = np.random.default_rng(0)
    accuracy, num_items = np.array([0.95, 0.9, 0.8, 0.65, 0.5]), 400
    truth = rng.integers(0, 2, num_items)
    right = rng.random((5, num_items)) < accuracy[:, None]
    labels = [(i, k, int(truth[i] if right[k, i] else 1 - truth[i])) for i in range(num_items) for k in range(5)]
    found = dawid_skene(labels, num_classes=2)
    # near what each really got right; one standard error of a share of 400 is up to .025
    assert found.accuracy() == pytest.approx(right.mean(1), abs=0.05)
    majority = np.array([sum(label == 1 for i, _, label in labels if i == item) > 2 for item in range(num_items)])
    assert (found.truth.argmax(1) == truth).mean() > (majority == truth).mean()


def test_the_truth_by_others_leaves_a_persons_own_labels_out():
    # Item 0: annotators 0 and 1 say class 0, annotator 2 says 1; all are right with 3/4, both classes alike beforehand.
    labels = [(0, 0, 0), (0, 1, 0), (0, 2, 1)]
    right = np.full((3, 2, 2), 1 / 4) + np.eye(2) / 2
    found = DawidSkene(truth=np.full((1, 2), 0.5), confusion=right, prior=np.array([0.5, 0.5]))
    # for annotator 0: 3/4 * 1/4 against 1/4 * 3/4; for annotator 2: 9/16 against 1/16
    assert found.truth_by_others(labels).tolist() == [pytest.approx([0.5, 0.5])] * 2 + [pytest.approx([0.9, 0.1])]
