"""The names of a run's steps and of what they count: keys of manifests, of progress and of an engine's dashboard.

Said here and nowhere else, so that a typo is an error of the type checker and not a counter of zero. They lie on disk:
none is renamed or used for something else.
"""

import enum


class Step(enum.StrEnum):
    """A named piece of a run's work; counters and seconds are kept by step."""

    READ_LOGS = "read_logs"
    NAME_PINS = "name_pins"
    UPDATE_HISTORIES = "update_histories"
    JOIN_VECTORS = "join_vectors"
    EMBED_USERS = "embed_users"
    MERGE_SNAPSHOT = "merge_snapshot"
    CUT_VECTORS = "cut_vectors"
    SHARD_PINS = "shard_pins"
    EMBED_PINS = "embed_pins"
    BUILD_INDEXES = "build_indexes"
    CHECK_CANARIES = "check_canaries"
    LOOK_BACK = "look_back"
    MEASURE_SHARDS = "measure_shards"
    REPLAY_BUCKETS = "replay_buckets"
    BUILD_TIMELINES = "build_timelines"
    COUNT_PAIRS = "count_pairs"
    KEEP_NEIGHBOURS = "keep_neighbours"
    FINISH = "finish"


class Counter(enum.StrEnum):
    """What the tasks of a step count; each is summed over tasks. Under its step it is written once."""

    # read_logs
    ROWS_READ = "rows_read"
    ROWS_DROPPED = "rows_dropped"
    ROWS_ERASED = "rows_erased"
    ROWS_OF_OTHERS = "rows_of_others"  # of users that a repair leaves alone
    BYTES_SHUFFLED = "bytes_shuffled"
    # name_pins
    PINS_NAMED = "pins_named"
    # update_histories
    ROWS_COLLIDED = "rows_collided"  # of a string whose id another has
    ROWS_NEW = "rows_new"
    ROWS_REPEATED = "rows_repeated"
    ROWS_PAST_LENGTH = "rows_past_length"
    ROWS_EXPIRED = "rows_expired"
    ROWS_KEPT = "rows_kept"
    USERS = "users"  # of merge_snapshot and build_timelines too
    ROWS_ADDED = "rows_added"  # new in the histories
    ROWS_OUT_OF_VOCABULARY = "rows_out_of_vocabulary"  # of them; of build_timelines too
    USERS_CHANGED = "users_changed"
    USERS_DUE = "users_due"
    USERS_ACTIVE = "users_active"
    SLICES = "slices"
    # join_vectors
    TOKENS = "tokens"  # of embed_users too
    TOKENS_OUT_OF_VOCABULARY = "tokens_out_of_vocabulary"
    TOKENS_WITHOUT_VECTOR = "tokens_without_vector"
    USERS_WITHOUT_TOKEN = "users_without_token"
    # embed_users
    USERS_EMBEDDED = "users_embedded"
    USERS_FAILED = "users_failed"
    USERS_NOT_FINITE = "users_not_finite"
    USERS_CONSTANT = "users_constant"
    BATCHES_HALVED = "batches_halved"
    # merge_snapshot
    USERS_CARRIED_OVER = "users_carried_over"
    USERS_EXPIRED = "users_expired"
    USERS_LOST = "users_lost"  # of the release before, those that expired among them
    USERS_STALE = "users_stale"
    # shard_pins
    PINS = "pins"
    VECTORS_READ = "vectors_read"
    VECTORS_ZERO = "vectors_zero"
    VECTORS_COLLIDED = "vectors_collided"
    # embed_pins
    PINS_EMBEDDED = "pins_embedded"  # by the tower, tonight
    PINS_REUSED = "pins_reused"  # whose vector and model are those of the release before; of build_indexes too
    SHARDS_REUSED = "shards_reused"  # whose file is that of the release before; of build_indexes too
    SHARDS_GROWN = "shards_grown"  # of build_indexes: a graph of the changed pins was put beside the old one
    SHARDS_DAMAGED = "shards_damaged"  # whose files would have been reused, were they sound; of build_indexes too
    PINS_NOT_FINITE = "pins_not_finite"
    PINS_CONSTANT = "pins_constant"
    # build_indexes
    PINS_INDEXED = "pins_indexed"
    PINS_UNFINDABLE = "pins_unfindable"
    TWINS = "twins"
    REBUILDS = "rebuilds"
    # check_canaries
    CANARIES = "canaries"
    CANARY_PINS = "canary_pins"
    # look_back
    ACTS = "acts"
    USERS_FORESIGHT = "users_foresight"
    USERS_CONSISTENCY = "users_consistency"
    # build_timelines
    ROWS = "rows"
    ROWS_WITHOUT_VECTOR = "rows_without_vector"
    EVENTS = "events"
    POSITIVES = "positives"
    # count_pairs
    ROWS_AFTER_UNTIL = "rows_after_until"
    USERS_CAPPED = "users_capped"
    # keep_neighbours
    PAIRS = "pairs"
    PAIRS_KEPT = "pairs_kept"
