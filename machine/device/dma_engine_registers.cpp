// The registers of a DMA engine, word by word.
#include "machine/device/dma_engine.hpp"
#include "machine/machine.hpp"

namespace kexec_sim {

using namespace nic;

u32 DmaEngine::read_register(u64 offset) const {
    const auto low = [](u64 value) { return static_cast<u32>(value); };
    const auto high = [](u64 value) { return static_cast<u32>(value >> 32); };
    switch (offset) {
    case CONTROL: return state_.control;
    case STATUS: return (running_ ? STATUS_RUNNING : 0) | (dry_ ? STATUS_DRY : 0) | (error_ ? STATUS_ERROR : 0);
    case RING_BASE: return low(state_.ring_base);
    case RING_BASE + 4: return high(state_.ring_base);
    case RING_ENTRIES: return state_.entries;
    case HEAD: return state_.head;
    case TAIL: return state_.tail;
    case INTERVAL: return state_.interval_ns;
    case MSIX_VECTOR: return state_.vector;
    case COMPLETED: return low(state_.completed);
    case COMPLETED + 4: return high(state_.completed);
    case FAULTS: return low(state_.faults);
    case FAULTS + 4: return high(state_.faults);
    case SEQUENCE: return low(state_.sequence);
    case SEQUENCE + 4: return high(state_.sequence);
    default: return 0;
    }
}

void DmaEngine::write_register(u64 offset, u32 value) {
    switch (offset) {
    case CONTROL: return write_control(value);
    case RING_BASE:
        if (!running_) state_.ring_base = (state_.ring_base & ~u64{0xffff'ffff}) | value;
        return;
    case RING_BASE + 4:
        if (!running_) state_.ring_base = (state_.ring_base & 0xffff'ffff) | u64{value} << 32;
        return;
    case RING_ENTRIES:
        if (running_ || value == state_.entries) return;
        state_.entries = value;
        state_.head = 0;
        return;
    case TAIL: state_.tail = running_ ? value % (2 * state_.entries) : value; return wake();
    case INTERVAL:
        if (!running_) state_.interval_ns = value;
        return;
    case MSIX_VECTOR: state_.vector = value; return;
    default: return;
    }
}

void DmaEngine::write_control(u32 value) {
    if (value & CONTROL_RESET) return reset();
    state_.control = value & (CONTROL_ENABLE | CONTROL_CIRCULAR);
    const bool enable = (value & CONTROL_ENABLE) != 0;
    if (enable && !running_) {
        start();
    } else if (!enable && running_) {
        stop("control");
        fabric().machine().device_referee.engine_stopped(function_, number_);
    } else {
        wake();
    }
}

}  // namespace kexec_sim
