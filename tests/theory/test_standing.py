"""What stands between two arrays that meet."""

from varprobe.theory.standing import Standing

HEAD, BODY = 1, 2


def test_a_fresh_weight_of_one_that_the_other_has_not_met_stands_between():
    body, head = Standing(touched=BODY, fresh=BODY), Standing(touched=HEAD | BODY, fresh=HEAD)
    assert head.is_uncorrelated(body)
    assert body.is_uncorrelated(head)
    assert not body.is_uncorrelated(body)


def test_parts_of_a_joined_array_are_apart_and_a_part_is_not_so_from_itself():
    whole = Standing(touched=HEAD, fresh=HEAD)
    first, second = whole.set_apart(0), whole.set_apart(1)
    assert first.is_uncorrelated(second)
    assert not first.is_uncorrelated(whole.set_apart(0))
    # What never was joined may be made of the same numbers.
    assert not first.is_uncorrelated(whole)
    # Parts of a part: apart from each other, and from all of the other part.
    inner = [first.set_apart(number) for number in (0, 1)]
    assert inner[0].is_uncorrelated(inner[1])
    assert inner[1].is_uncorrelated(second)
    assert not inner[0].is_uncorrelated(first)


def test_a_sum_of_parts_has_no_place_any_more():
    first, second = (Standing(touched=HEAD).set_apart(number) for number in (0, 1))
    assert not first.add(second).is_uncorrelated(second)
