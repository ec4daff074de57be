#include "machine/kept_mapping.hpp"

#include <sys/mman.h>

namespace kexec_sim {

void* KeptMapping::take(u64 bytes) {
    void* const wanted = reinterpret_cast<void*>(address_);
    if (kept_bytes_ == bytes) {
        kept_bytes_ = 0;
        return wanted;
    }
    drop();
    void* const at = mmap(wanted, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

void KeptMapping::drop() {
    if (kept_bytes_) munmap(reinterpret_cast<void*>(address_), kept_bytes_);
    kept_bytes_ = 0;
}

}  // namespace kexec_sim
