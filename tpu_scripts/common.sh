# shellcheck shell=bash
# What the scripts share. Written for bash 3.2 as well, which macOS has.
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/settings.sh
source "$scripts/settings.sh"

dry_run=false
flags=()

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# Takes --dry_run and --help from the command line and leaves the rest in
# `flags`. The help is the comment that the script begins with.
parse_flags() {
  local flag
  for flag in "$@"; do
    case $flag in
      --dry_run) dry_run=true ;;
      --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      *) flags+=("$flag") ;;
    esac
  done
}

refuse_flags() {
  [ ${#flags[@]} -eq 0 ] || fail "there is no flag ${flags[0]}; see --help"
}

require() {
  [ -n "${!1}" ] ||
    fail "set $1, in tpu_scripts/settings.sh or in the environment: $2"
}

check_settings() {
  require TPU_PROJECT "the Google Cloud project to bill"
  require TPU_ZONE "the zone of the TPU, such as us-west4-a"
  require TPU_NAME "a name for the TPU"
  case $ENGINE in
    tensorflow | jax) ;;
    *) fail "ENGINE must be tensorflow or jax. Received: ENGINE=$ENGINE" ;;
  esac
  case $TPU_SPOT in
    true | false) ;;
    *) fail "TPU_SPOT must be true or false. Received: TPU_SPOT=$TPU_SPOT" ;;
  esac
  [[ $TPU_TYPE =~ ^[a-z0-9]+-[0-9]+$ ]] ||
    fail "TPU_TYPE must be like v5litepod-8. Received: TPU_TYPE=$TPU_TYPE"
  # It becomes part of paths here, on the TPU and in the bucket.
  [[ $RUN =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] ||
    fail "RUN must be letters, digits and ._- only. Received: RUN=$RUN"
  [[ -z $RUNS_BUCKET || $RUNS_BUCKET =~ ^gs://[^/]+$ ]] ||
    fail "RUNS_BUCKET must be gs://NAME. Received: RUNS_BUCKET=$RUNS_BUCKET"
  if is_slice; then
    # The TPU's own TensorFlow server has to be of the same version, which no
    # runtime offers for tensorflow-tpu 2.20.
    [ "$ENGINE" = jax ] ||
      fail "a TPU of several machines needs ENGINE=jax. Received:" \
        "TPU_TYPE=$TPU_TYPE, ENGINE=$ENGINE"
    require RUNS_BUCKET "the machines of $TPU_TYPE share no disk"
  fi
}

# Whether the TPU is several machines. One has at most 8 chips of v5e or v6e,
# or 4 of two cores each.
is_slice() {
  [ "${TPU_TYPE##*-}" -gt 8 ]
}

# Prints words as a shell reads them, in single quotes where it would not read
# them as they are.
quote() {
  local word separator='' escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/$escaped}'" ;;
    esac
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
}

# Runs a command, or shows it.
run() {
  if "$dry_run"; then
    quote "$@"
    printf '\n'
  else
    "$@"
  fi
}

# run_on WORKERS COMMAND: runs a line of shell on one or `all` of the machines.
run_on() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" \
    --project="$TPU_PROJECT" --zone="$TPU_ZONE" --worker="$1" --command="$2"
}

# copy WORKERS FROM TO: a path on the TPU begins with its name and a colon.
copy() {
  run gcloud compute tpus tpu-vm scp "$2" "$3" --recurse \
    --project="$TPU_PROJECT" --zone="$TPU_ZONE" --worker="$1"
}

# queued_resource COMMAND FLAGS...
queued_resource() {
  local command=$1
  shift
  run gcloud compute tpus queued-resources "$command" "$TPU_NAME" \
    --project="$TPU_PROJECT" --zone="$TPU_ZONE" "$@"
}
