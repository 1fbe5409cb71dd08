from broker.session.stomp_promises import Promises


def test_frames_wait_for_their_commit_in_order():
    promises = Promises()
    output = []
    promises.add(b"1")
    promises.add(b"2")
    assert promises.end_turn(5)
    promises.add(b"3")
    promises.release(4, output)
    assert output == [] and promises.count == 3
    promises.release(5, output)
    assert output == [b"12"] and promises.count == 1
    promises.release(9, output)
    assert promises.count == 1, "what has no commit yet is not released"
    assert promises.end_turn(9)
    assert not promises.end_turn(10), "nothing new: nobody is to hurry"
    promises.release(9, output)
    assert output == [b"12", b"3"] and promises.count == 0
