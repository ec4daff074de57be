#include "kernel-model/handed_over.hpp"

#include <algorithm>

namespace kexec_sim {

void visit_read(Machine& machine, std::string_view what, std::span<std::byte> bytes) {
    const auto action = machine.faults.visit(FaultPoint::handover_read, what);
    if (!action) return;
    const bool hits = action->offset < bytes.size() && (action->kind == FaultKind::flip || action->length != 0);
    if (!hits)
        machine.faults.missed(what);
    else if (action->kind == FaultKind::flip)
        bytes[action->offset] ^= std::byte{1} << (action->bit & 7);
    else
        std::ranges::fill(
            bytes.subspan(action->offset).first(std::min(action->length, bytes.size() - action->offset)),
            std::byte{0});
}

}  // namespace kexec_sim
