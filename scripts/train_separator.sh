#!/usr/bin/env bash
exec bash "$(dirname "$0")/../train_separator.sh" "$@"  # moved to the root
