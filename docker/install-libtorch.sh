#!/usr/bin/env bash
# Installs libtorch: headers and shared libraries, no Python packages. Its version is pinned here and nowhere else.
#
#   docker/install-libtorch.sh [--variant cpu|cuda] [--prefix DIR]
#
# Without --variant an existing installation keeps its variant, and a new one is cpu. The default DIR is .libtorch at the root of
# the repository. `runpod-worker libtorch` contains this script and runs it for crates elsewhere.
#
# libtorch comes from the wheels that PyTorch publishes, because every mirror of Python packages has them, and they contain the
# same headers and libraries as the zip files. libtorch's own run path ($ORIGIN/../../nvidia/…) depends on this layout:
#
#   DIR/torch/{include,lib,share}   DIR/nvidia/*/lib   DIR/stamp
#
# A second run is instant and needs no network. Files are downloaded beside DIR and moved into place at the end, so an interrupted
# run leaves nothing half-installed. It leaves the packages that it has downloaded in DIR.downloads, and the next run goes on there.
set -euo pipefail

torch_version=2.11.0

# What libtorch_cpu.so needs: this build of it always links the CUDA profiler.
cpu_wheels='
torch==2.11.0                --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-cupti==13.0.85   --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
'
# What torch 2.11.0 requires on Linux beyond that, without the packages that only Python uses (triton, cuda-bindings, …).
cuda_wheels="$cpu_wheels"'
nvidia-cublas==13.1.0.3       --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cuda-nvrtc==13.0.88    --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cudnn-cu13==9.19.0.56  --hash=sha256:d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cufft==12.0.0.61       --hash=sha256:6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-cufile==1.15.1.6       --hash=sha256:08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35      --hash=sha256:1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusolver==12.0.4.66    --hash=sha256:0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112
nvidia-cusparse==12.6.3.3     --hash=sha256:2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cusparselt-cu13==0.8.0 --hash=sha256:25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd
nvidia-nccl-cu13==2.28.9      --hash=sha256:e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
nvidia-nvjitlink==13.0.88     --hash=sha256:13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-nvshmem-cu13==3.4.5    --hash=sha256:290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
nvidia-nvtx==13.0.85          --hash=sha256:4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4
'

say() { printf 'libtorch: %s\n' "$*"; }
fail() {
    printf 'libtorch: error: %s\n' "$*" >&2
    exit 1
}

variant=
prefix=
# Without a file of its own it is run by the worker, which names the folder.
[[ -z ${BASH_SOURCE[0]:-} ]] || prefix="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.libtorch"
while (($#)); do
    case $1 in
    --variant) variant=${2:-} && shift 2 || fail '--variant needs a value: cpu or cuda' ;;
    --prefix) prefix=${2:-} && shift 2 || fail '--prefix needs a value: the folder to install into' ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown argument '$1': the arguments are --variant cpu|cuda and --prefix DIR" ;;
    esac
done
[[ -n $prefix ]] || fail '--prefix is empty: name the folder to install into'
installed=$(cut -d' ' -f1 "$prefix/stamp" 2>/dev/null || true)
variant=${variant:-${installed:-cpu}}
case $variant in
cpu) wheels=$cpu_wheels ;;
cuda) wheels=$cuda_wheels ;;
*) fail "unknown variant '$variant': use cpu or cuda" ;;
esac
stamp="$variant $(printf '%s' "$wheels" | sha256sum | cut -c1-16)"

# Fails, with the reason, unless the folder holds a libtorch of the right version whose libraries can be loaded.
check() {
    local root=$1 library missing libraries=(libc10.so libtorch_cpu.so)
    [[ $variant == cpu ]] || libraries+=(libtorch_cuda.so libtorch_cuda_linalg.so)
    grep -q "^__version__ = '$torch_version\b" "$root/torch/version.py" 2>/dev/null ||
        { echo "$root/torch is not PyTorch $torch_version" && return 1; }
    [[ -f $root/torch/include/torch/csrc/api/include/torch/torch.h ]] ||
        { echo "$root/torch/include lacks the C++ headers" && return 1; }
    for library in "${libraries[@]}"; do
        missing=$(ldd "$root/torch/lib/$library" 2>&1 | awk '/not found|No such file/ {print $1}' | paste -sd' ')
        [[ -z $missing ]] || { echo "$library needs libraries that cannot be found: $missing" && return 1; }
    done
}

if [[ -f $prefix/stamp && $(<"$prefix/stamp") == "$stamp" ]]; then
    say "$torch_version ($variant) is installed in $prefix"
    exit 0
fi
# A libtorch that this script did not install, for example a folder shared between checkouts, is used and never changed or removed.
if [[ -z $installed && -n $(ls -A "$prefix" 2>/dev/null) ]]; then
    reason=$(check "$prefix") ||
        fail "$prefix holds something else that cannot be used: $reason. Remove it or name another --prefix"
    say "$torch_version found in $prefix, not installed by this script; using it as it is"
    exit 0
fi

[[ $(uname -sm) == 'Linux x86_64' ]] ||
    fail "only Linux on x86-64 is pinned here, this is $(uname -sm): unpack libtorch $torch_version yourself and set LIBTORCH"
python3 -m pip --version >/dev/null 2>&1 ||
    fail 'python3 with pip is needed to download: apt-get install -y python3-pip'

mkdir -p "$(dirname "$prefix")"
work=$(mktemp -d "$prefix.partial.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The wheels are those of one fixed interpreter, whatever python3 is here: only their C++ part is used.
platform=(--no-deps --require-hashes --only-binary=:all: --disable-pip-version-check --python-version 3.11 --implementation cp
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64
    --platform manylinux_2_18_x86_64 --platform manylinux2014_x86_64 --platform manylinux2010_x86_64
    --platform manylinux1_x86_64)
downloads=$prefix.downloads
mkdir -p "$downloads" "$work/tmp"
printf '%s' "$wheels" | grep == >"$work/wheels.txt"
count=$(grep -c == "$work/wheels.txt")
say "downloading $count packages for $torch_version ($variant) into $prefix"
number=0
while read -r package; do
    number=$((number + 1))
    say "$number of $count: ${package%% *}"
    printf '%s\n' "$package" >"$work/one.txt"
    # pip checks the hash, also of a file that is there already. TMPDIR keeps its temporary copies on this file system; its cache
    # would store everything a second time.
    TMPDIR="$work/tmp" python3 -m pip download --no-cache-dir "${platform[@]}" --dest "$downloads" --requirement "$work/one.txt" ||
        fail "the download failed: see the lines above; run again to go on with package $number of $count"
done <"$work/wheels.txt"
say 'unpacking'
TMPDIR="$work/tmp" python3 -m pip install --quiet --no-index --find-links "$downloads" --no-compile --no-cache-dir \
    --root-user-action=ignore "${platform[@]}" --target "$work/wheels" --requirement "$work/wheels.txt" ||
    fail 'the packages cannot be unpacked: see the lines above'

# Moves the parts that C++ programs use out of the unpacked wheels. Paths may be patterns; each must match something.
keep() {
    local pattern file
    for pattern in "$@"; do
        compgen -G "$work/wheels/$pattern" >/dev/null || fail "the wheels lack $pattern, which they should contain"
        while read -r file; do
            mkdir -p "$work/new/$(dirname "$file")"
            mv "$work/wheels/$file" "$work/new/$file"
        done < <(cd "$work/wheels" && compgen -G "$pattern")
    done
}
keep torch/include torch/share torch/version.py
if [[ $variant == cuda ]]; then
    keep 'torch/lib/*.so*' 'nvidia/*/lib/*.so*' 'nvidia/cu13/include'
    # 260 MB that libtorch never loads: other front ends of the same libraries, parts of profilers, plug-ins for MPI and RDMA.
    (cd "$work/new" && rm -f torch/lib/libshm.so nvidia/nvshmem/lib/nvshmem_{bootstrap,transport}_*.so* \
        nvidia/cu13/lib/lib{cusolverMg,nvblas,cufftw,nvrtc.alt,nvrtc-builtins.alt,nvperf_host,nvperf_target,checkpoint}.so* \
        nvidia/cu13/lib/lib{pcsamplingutil,nvtx3interop,cufile_rdma}.so*)
else
    keep 'torch/lib/libc10.so' 'torch/lib/libtorch.so' 'torch/lib/libtorch_cpu.so' 'torch/lib/libgomp.so*' \
        'torch/lib/libtorch_global_deps.so' 'nvidia/cu13/lib/libcudart.so*' 'nvidia/cu13/lib/libcupti.so*'
fi
rm -f "$work/new/torch/lib/libtorch_python.so"

reason=$(check "$work/new") || fail "what was downloaded cannot be used: $reason"
printf '%s\n' "$stamp" >"$work/new/stamp"

if [[ -n $installed ]]; then
    say "replacing the $installed install; if you built with it, run: cargo clean -p torch-sys"
    mv "$prefix" "$work/old"
fi
[[ ! -d $prefix ]] || rmdir "$prefix"
mv "$work/new" "$prefix"
rm -rf "$downloads"
say "$torch_version ($variant) installed in $prefix: $(du -sh "$prefix" | cut -f1)"
(cd "$prefix" && du -sh torch/lib torch/include nvidia | sed 's/^/libtorch:   /')
