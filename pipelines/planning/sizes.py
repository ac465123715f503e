"""How large an engine's machines should be for a night: sums of `docs/scale.md`, for `plan --sizes`.

They are upper bounds, made of figures per row, pin and process that were measured on one machine
(docs/benchmarks.md); no cluster was measured.
"""

import dataclasses
import math

GIB = 1 << 30
HOUR_S = 3600.0
SLOTS = 4  # of a TaskManager: as many workers, which share one copy of the vectors

WORKER_BYTES = 0.6 * GIB  # a process that has imported everything
MERGED_ROW_BYTES = 150.0  # of a bucket's histories, which a merge holds four times
PIN_BYTES = 8.0 + 148.0  # beside its numbers: the id, and the links of its node in the index
SLICE_BYTES = 0.3 * GIB  # vectors, tokens and activations of a slice
SHUFFLED_ROW_BYTES = 36.0
ASKED_SHARE = 0.85  # of a slice's tokens: a pin is asked for once
OTHERS_BYTES = 4.0 * GIB  # on disk: what is written before it goes to the root, what is left of a restart


@dataclasses.dataclass(frozen=True)
class NightSize:
    """What the sizes follow from.

    Attributes:
        rows: Of the logs that it reads.
        kept_rows: Of the histories that it ends with, at most.
        tokens: That the model sees; 0 if nothing tells.
        pins: With `vector_bytes` of vectors in all; the model makes `width` numbers of each.
        model_bytes: The weights in memory.
        work_s: Seconds of work, one after the other.
        join: `broadcast` or `shuffle`.
        cuda: Whether users are embedded on GPUs.
    """

    rows: int
    kept_rows: int
    tokens: float
    pins: int
    vector_bytes: int
    width: int
    user_buckets: int
    pin_shards: int
    model_bytes: int
    work_s: float
    join: str
    cuda: bool

    @property
    def asked_bytes(self) -> float:
        """Vectors that are shuffled to slices."""
        if self.join != "shuffle" or not self.pins:
            return 0.0
        return self.tokens * ASKED_SHARE * self.vector_bytes / self.pins

    @property
    def index_bytes(self) -> float:
        """Of the largest single piece of work on pins: a shard's embeddings, float16, and its index, float32."""
        return self.pins / self.pin_shards * (PIN_BYTES + 6.0 * self.width)

    @property
    def working_bytes(self) -> float:
        """Beside its imports, of one worker: the largest of merge, slice and index, and the model."""
        merge = self.kept_rows / self.user_buckets * MERGED_ROW_BYTES
        return max(merge, self.index_bytes, SLICE_BYTES) + self.model_bytes

    @property
    def mapped_bytes(self) -> float:
        """Of a machine, once for all its workers: the table of vectors that a broadcast join maps."""
        return float(self.vector_bytes) if self.join == "broadcast" else 0.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What to ask an engine for.

    Attributes:
        machines: TaskManagers with their worker pools, or VMs.
        slots: Workers of each.
        memory_gib: Of a machine's workers together.
        disk_gib: Of a machine's workers together.
    """

    machines: int
    slots: int
    memory_gib: int
    disk_gib: int


def sizes_of(night: NightSize, slots: int, *, processes: int, hours: float = 1.0) -> Sizes:
    """Sizes for a night that is done within some hours.

    Args:
        slots: Of a machine, at most.
        processes: Workers of a machine, one for each slot or one with a thread for each.
    """
    wanted = max(1, min(night.user_buckets, math.ceil(night.work_s / (hours * HOUR_S))))
    slots = min(slots, wanted)
    machines = math.ceil(wanted / slots)
    # What a stage puts out waits in the worker until the engine has taken it (docs/runners.md).
    held = max(night.rows * SHUFFLED_ROW_BYTES, night.asked_bytes) / (machines * slots)
    memory = min(processes, slots) * WORKER_BYTES + slots * (night.working_bytes + held) + night.mapped_bytes
    disk = night.mapped_bytes + night.model_bytes + 2 * slots * night.index_bytes + OTHERS_BYTES
    return Sizes(machines, slots, math.ceil(memory / GIB), math.ceil(disk / GIB))


KUSTOMIZATION = """\
# {machines} TaskManagers of {slots} slots, by `pinnerformer plan --sizes kubernetes`.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
# Patches by position: of a kind that is not its own, kustomize would replace a whole list of containers.
patches:
  - target: {{kind: FlinkDeployment, name: pinnerformer-flink}}
    patch: |-
      - {{op: replace, path: /spec/flinkConfiguration/taskmanager.numberOfTaskSlots, value: "{slots}"}}
      - {{op: replace, path: /spec/flinkConfiguration/slotmanager.number-of-slots.max, value: "{all_slots}"}}
      - {{op: replace, path: /spec/flinkConfiguration/taskmanager.memory.task.off-heap.size, value: {off_heap}m}}
      - op: replace
        path: /spec/taskManager/podTemplate/spec/containers/0/resources
        value:
          requests: {{cpu: "{slots}", memory: {memory}Gi, ephemeral-storage: {disk}Gi}}
          limits: {{memory: {memory}Gi, ephemeral-storage: {disk}Gi}}
  - target: {{kind: CronJob, name: pinnerformer-daily}}
    patch: |-
      - op: replace
        path: /spec/jobTemplate/spec/template/spec/containers/0/args
        value: [--parallelism={all_slots}, --sdk_worker_parallelism={slots}]
"""


def for_kubernetes(night: NightSize) -> str:
    """The component `sizes` of an overlay of deploy/kubernetes."""
    sizes = sizes_of(night, SLOTS, processes=SLOTS)
    return KUSTOMIZATION.format(
        machines=sizes.machines,
        slots=sizes.slots,
        all_slots=sizes.machines * sizes.slots,
        off_heap=256 * sizes.slots,
        memory=sizes.memory_gib,
        disk=sizes.disk_gib,
    )


# GiB of memory of a vCPU, by the family's name; a VM of 8.
FAMILIES = (("n2-standard-8", 4.0), ("n2-highmem-8", 8.0))
VCPUS = 8
IMAGE_GIB = 25  # of a VM's disk, for the system and the image
GPU_GIB = 24  # what embedding workers with a GPU have at least
GPU = "type:nvidia-l4;count:1;install-nvidia-driver"


def for_dataflow(night: NightSize) -> str:
    """The flags of `daily` for Dataflow: machine type, threads, machines, disk, and the GPU that embeds users."""
    sizes = sizes_of(night, VCPUS, processes=1)
    # Where memory and not cores runs short, fewer threads share a VM.
    thread = (night.working_bytes + night.mapped_bytes / VCPUS) / GIB
    machine, per_vcpu = next((one for one in FAMILIES if sizes.memory_gib <= one[1] * VCPUS), FAMILIES[-1])
    threads = max(1, min(VCPUS, math.floor((per_vcpu * VCPUS - night.mapped_bytes / GIB) / max(thread, 0.1))))
    words = [
        f"--worker_machine_type={machine}",
        f"--number_of_worker_harness_threads={threads}",
        f"--max_num_workers={math.ceil(sizes.machines * VCPUS / threads)}",
        f"--disk_size_gb={sizes.disk_gib + IMAGE_GIB}",
    ]
    if night.cuda:
        # Of these workers: they merge nothing and build no index.
        embedding = WORKER_BYTES + VCPUS * (SLICE_BYTES + night.model_bytes) + night.mapped_bytes
        ram = max(GPU_GIB, math.ceil(embedding / GIB))
        words += ["--device=cuda", f"--embed-accelerator={GPU}", f"--embed-ram={ram}GB"]
    return " ".join(words) + "\n"


FORMS = {"kubernetes": for_kubernetes, "dataflow": for_dataflow}
