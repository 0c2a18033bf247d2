"""What a run leaves behind: hooks of its own thread only while it runs, gradients as they were, and never NaN unsaid."""

import sys
import threading

import pytest
import torch
from variants import build, pictures

from vitlens import HookedViT, InputError, class_lens
from vitlens.model.hooks.hook_points import set_hooks
from vitlens.model.runs.leaves_state import leaves_state


@pytest.fixture(scope="module")
def model():
    return HookedViT.from_timm(build())


@pytest.fixture(scope="module")
def images(model):
    return pictures(model.cfg, 2)


def silence(z, hook):
    return 0 * z


def in_another_thread(call):
    found = []

    def run():
        try:
            found.append(call())
        except InputError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_hooks_of_a_run_belong_to_the_thread_that_set_them(model, images):
    plain = model(images)
    silent = model.run_with_hooks(images, fwd_hooks=[("z", silence)])
    assert not torch.equal(plain, silent)
    with model.hooks(fwd_hooks=[("z", silence)]):
        assert torch.equal(in_another_thread(lambda: model(images)), plain)
        # What another thread sets and takes away, or resets, leaves these hooks where they are.
        in_another_thread(lambda: model.run_with_cache(images, names_filter="pattern"))
        in_another_thread(model.reset_hooks)
        assert torch.equal(model(images), silent)
    assert torch.equal(model(images), plain)
    assert not set_hooks(model)


def test_a_hook_that_was_added_to_the_model_works_in_every_thread(model, images):
    silent = model.run_with_hooks(images, fwd_hooks=[("z", silence)])
    model.add_hook("z", silence)
    try:
        assert torch.equal(in_another_thread(lambda: model(images)), silent)
    finally:
        model.reset_hooks()


def test_hooks_of_a_thread_that_has_ended_can_be_reset(model, images):
    in_another_thread(lambda: model.run_with_hooks(images, fwd_hooks=[("z", silence)], reset_hooks_end=False))
    assert set_hooks(model)
    model.reset_hooks()
    assert not set_hooks(model)


def test_backward_hooks_of_another_thread_are_refused_where_they_would_be_called(model, images):
    seen = []

    def see(gradient, hook):
        seen.append(gradient)

    with model.hooks(bwd_hooks=[(("z", 1), see)]):
        refusal = in_another_thread(lambda: model(images))
        assert "another thread has set backward hooks at blocks.1.attn.hook_z" in str(refusal)

        def forward_only():
            with torch.no_grad():
                return model(images)

        assert torch.equal(in_another_thread(forward_only), model(images))
        model(images).sum().backward()
        assert len(seen) == 1
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = None


class InterruptAt:
    """A trace function that presses Ctrl-C at the k-th line or return in files where torch's state is switched."""

    files = ("grad_mode.py", "contextlib.py", "caching.py")

    def __init__(self, k):
        self.left = k

    def __call__(self, frame, event, arg):
        return self.inside if frame.f_code.co_filename.endswith(self.files) else None

    def inside(self, frame, event, arg):
        self.left -= event in ("line", "return")
        if self.left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self.inside


def test_an_interrupt_at_any_moment_leaves_gradients_and_hooks_as_they_were(model, images):
    random_numbers = torch.get_rng_state()
    calls = [
        lambda: class_lens(model, images, 1),
        lambda: model.run_with_hooks(images, fwd_hooks=[("z", silence)]),
        lambda: model.run_with_cache(images, names_filter=["z", "pattern"]),
    ]
    before = sys.gettrace()
    for call in calls:
        interrupted = 0
        for k in range(1, 1000, 3):
            sys.settrace(InterruptAt(k))
            try:
                call()
                break
            except KeyboardInterrupt as error:
                # A traceback that is kept, as IPython keeps it, keeps half-entered context managers open.
                kept = error
            finally:
                sys.settrace(before)
            interrupted += 1
            assert torch.is_grad_enabled(), f"gradients stay off after an interrupt at event {k}"
            assert not set_hooks(model), f"hooks stay after an interrupt at event {k}"
            assert kept is not None
        assert interrupted > 3
    assert torch.equal(torch.get_rng_state(), random_numbers)


def test_random_numbers_are_put_back_after_a_failure_only():
    @leaves_state
    def draw(fail):
        torch.rand(1)
        if fail:
            raise ValueError("drawn")

    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="draw"):
        draw(True)
    assert torch.equal(torch.get_rng_state(), state)
    draw(False)
    assert not torch.equal(torch.get_rng_state(), state)


def test_a_run_that_ends_in_nan_or_infinity_says_where(model, images):
    huge = images.float().clamp(-3, 3) * 1e38
    single = HookedViT.from_timm(build()).to(torch.float32)
    for run in (single, lambda x: single.run_with_cache(x)[0], lambda x: single(x, stop_at_layer=2)):
        with pytest.raises(InputError, match=r"of picture 0 are NaN or infinite: .* float32 ends at 3.4e\+38"):
            run(huge)
    half = HookedViT.from_timm(build()).half()
    with pytest.raises(InputError, match=r"float16 ends at 65,504: load the model with dtype=torch\.float32"):
        half((images.clamp(-1, 1) * 6e4).half())
    broken = HookedViT.from_timm(build())
    with torch.no_grad():
        broken.blocks[1].mlp.fc2.bias[0] = float("inf")
    with pytest.raises(InputError, match="the residual stream stops being finite in block 1"):
        class_lens(broken, images)
    with pytest.raises(InputError, match="the features of picture 0"):
        broken(images, return_type="features")


def test_a_run_that_a_hook_edits_may_end_in_nan_and_says_so(model, images):
    with pytest.warns(UserWarning, match="in a run that a hook at blocks.1.attn.hook_z edits"):
        logits = model.run_with_hooks(images, fwd_hooks=[(("z", 1), lambda z, hook: z * float("nan"))])
    assert logits.isnan().all()
