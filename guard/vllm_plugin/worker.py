"""vLLM's worker, which tells the guard's processor what assistants can spare work by.

On the V1 runner a processor is called with the rows of all requests, those among them whose prompts
are read in chunks and whose samples are discarded, and is not told which: with this class as vLLM's
`--worker-cls` an assistant keeps pace with the chunks, without it one reads a new prompt whole in
its first step. On the V2 runner that is told, but not a prompt's tokens: with this class a
beginning that prompts share is read once. Read at vLLM 0.32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from guard.vllm_plugin import v1, v2

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class GuardWorker(PlatformWorker):
    """The platform's worker."""

    _guards: tuple[v2.GuardLogitsProcessor, ...] = ()

    def init_device(self) -> None:
        """Introduce V1's runner, once it is there, to the guard's processor."""
        super().init_device()
        if not self.use_v2_model_runner:
            for processor in self.model_runner.input_batch.logitsprocs.all:
                if isinstance(processor, v1.GuardLogitsProcessor):
                    processor.follow(self.model_runner)

    def load_model(self, **options: Any) -> None:
        """Find V2's processor, which is made with the model; none on ranks that do not sample."""
        super().load_model(**options)
        if self.use_v2_model_runner and self.model_runner.sampler is not None:
            processors = self.model_runner.sampler.logits_processors
            self._guards = tuple(p for p in processors if isinstance(p, v2.GuardLogitsProcessor))

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """A step; V2's processor learns first what the requests that enter begin with."""
        for guard in self._guards:
            guard.announce(
                (new.sampling_params, new.prefill_token_ids)
                for new in scheduler_output.scheduled_new_reqs
                if new.sampling_params is not None and new.prefill_token_ids is not None
            )
        return super().execute_model(scheduler_output)
