# shellcheck shell=bash disable=SC2154
# Where a run is kept, for the scripts beside this file, which set `name` and,
# if a bucket has a copy, `bucket`.
#
# Beside its directory lie its output in .log, the process in .pid and, when it
# has ended, its exit status in .status. Whoever runs it holds a lock on .lock,
# which no crash leaves behind.
state=$HOME/runs/$name

is_running() {
  [ -e "$state.lock" ] && ! flock --nonblock "$state.lock" true
}

# Files that are being written lie in directories of the excluded name.
mirror() {
  gcloud storage rsync "$1" "$2" --recursive \
    --delete-unmatched-destination-objects --exclude='(.*/)?\.partial-.*'
}

save() {
  if [ -e "$state" ]; then
    mirror "$state" "$bucket/runs/$name"
  fi
}

restore() {
  # Fails here, where nothing is deleted yet, if the bucket cannot be read.
  gcloud storage ls "$bucket" >/dev/null
  if gcloud storage ls "$bucket/runs/$name/" >/dev/null 2>&1; then
    mkdir -p "$state"
    mirror "$bucket/runs/$name" "$state"
  fi
}

# The number of this machine among the TPU's.
worker_number() {
  curl --fail --silent --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/\
agent-worker-number"
}
