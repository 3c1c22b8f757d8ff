"""The shell scripts that run on an attached device. POSIX ``sh`` and what BusyBox and Android's toybox
have; no name is ever pasted into a script, all come as positional parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Makes a private folder below $1 and keeps it until its input ends, or nothing has been heard on it
#: for $2 to twice $2 seconds (the connection hangs, or edgekit was stopped); then what still runs is
#: ended and the folder goes. First it removes folders of keepers that died without doing so.
KEEPER = r"""
umask 077
[ -d "$1" ] && [ -w "$1" ] || { echo "edgekit-error=there is no folder $1 that can be written to"; exit 3; }
for f in "$1"/edgekit-*; do
  if [ -d "$f" ] && [ ! -L "$f" ] && [ -O "$f" ] && [ -s "$f/keeper" ]; then
    kill -0 "$(cat "$f/keeper")" 2>/dev/null || rm -rf "$f"
  fi
done
d=$(mktemp -d "$1/edgekit-XXXXXX") || { echo "edgekit-error=no folder can be made in $1"; exit 3; }
end() {
  trap '' HUP TERM INT PIPE
  [ -s "$d/pid" ] && kill -9 "$(cat "$d/pid")" 2>/dev/null
  [ -n "$w" ] && kill "$w" 2>/dev/null
  rm -rf "$d" 2>/dev/null || { sleep 1; rm -rf "$d"; }
  exit 0
}
trap end HUP TERM INT PIPE
if ! { echo $$ >"$d/keeper" && mkdir "$d/w" && : >"$d/beat"; } 2>/dev/null; then
  echo "edgekit-error=$1 is full or cannot be written to"; end
fi
me=$$
(
  trap 'kill "$s" 2>/dev/null; exit 0' TERM
  trap '' HUP
  while :; do
    sleep "$2" & s=$!
    wait "$s"
    if [ -e "$d/beat" ]; then rm -f "$d/beat"; else break; fi
  done
  kill -TERM "$me"
  sleep 2
  [ -s "$d/pid" ] && kill -9 "$(cat "$d/pid")"
  rm -rf "$d"
) </dev/null >/dev/null 2>&1 &
w=$!
echo "edgekit-folder=$d"
while read -r x; do : >"$d/beat"; done
end
"""

#: Runs $3... in the folder $1 with the input $2. What the program says goes to files, so that the
#: connection takes no part in what is measured. ``full``: nothing more could be
#: written to the folder.
RUN = r"""
d=$1; in=$2; shift 2
cd "$d/w" || exit 3
"$@" <"$in" >"$d/out" 2>"$d/err" &
p=$!
echo "$p" >"$d/pid"
wait "$p"
r=$?
: >"$d/pid"
full=0
{ head -c 65536 /dev/zero >"$d/space"; } 2>/dev/null && [ "$(wc -c <"$d/space")" -eq 65536 ] || full=1
rm -f "$d/space"
echo "edgekit-end $r $(($(wc -c <"$d/out"))) $(($(wc -c <"$d/err"))) $full"
cat "$d/out" "$d/err"
"""

#: How large the file $1 is.
SIZE = r"""[ -f "$1" ] && echo "edgekit-size $(($(wc -c <"$1")))" || echo edgekit-none"""

#: What the emulator $1 is.
EMULATOR = r"""
"$1" --version 2>/dev/null | head -n 1
"$1" --help 2>/dev/null | grep -q -e -plugin && echo edgekit-plugins
"""

#: Ends the program that runs in the folder $1.
KILL = r"""[ -s "$1/pid" ] && kill -9 "$(cat "$1/pid")"; echo edgekit-killed"""

#: Who a device is, as lines key=value.
FACTS = r"""
say() { [ -n "$2" ] && printf '%s=%s\n' "$1" "$2"; }
first() { tr -d '\000' <"$1" 2>/dev/null | head -n 1; }
info() { sed -n "s/^$1[[:space:]]*:[[:space:]]*//p" /proc/cpuinfo 2>/dev/null | head -n 1; }
say machine "$(uname -m)"
say system "$(uname -s) $(uname -r)"
say cores "$(nproc 2>/dev/null || grep -c '^processor' /proc/cpuinfo 2>/dev/null)"
say cpu "$(info 'model name')"
say hardware "$(info Hardware)"
parts() { sed -n 's/^CPU part[[:space:]]*:[[:space:]]*//p' /proc/cpuinfo 2>/dev/null; }
say parts "$(parts | sort | uniq -c | tr -s ' \n' ' ')"
[ -r /proc/device-tree/model ] && say model "$(first /proc/device-tree/model)"
[ -r /etc/machine-id ] && say id "$(first /etc/machine-id)"
[ -r /proc/device-tree/serial-number ] && say id "$(first /proc/device-tree/serial-number)"
[ -r /proc/meminfo ] && say memory_kb "$(sed -n 's/^MemTotal:[[:space:]]*\([0-9]*\).*/\1/p' /proc/meminfo)"
if command -v getprop >/dev/null 2>&1; then
  say model "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
  say soc "$(getprop ro.soc.manufacturer) $(getprop ro.soc.model)"
  say platform "$(getprop ro.board.platform)"
  say android "$(getprop ro.build.version.release)"
  say abi "$(getprop ro.product.cpu.abi)"
  say id "$(getprop ro.serialno)"
fi
command -v taskset >/dev/null 2>&1 && say taskset yes
echo edgekit-facts=end
"""


def shell(script: str, *parameters: str) -> list[str]:
    """The words of a command that runs a script with positional parameters."""
    return ["sh", "-c", script, "sh", *parameters]


def pinned(words: Sequence[str], cpus: Sequence[int]) -> list[str]:
    """The command on these cores only. Both util-linux and toybox take a hexadecimal mask."""
    if not cpus:
        return list(words)
    return ["taskset", f"{sum(1 << c for c in set(cpus)):x}", *words]
