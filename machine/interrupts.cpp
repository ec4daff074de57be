#include "machine/interrupts.hpp"

#include <bit>

#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

constexpr u8 vectors_reserved = 16;  // exceptions of the CPU: no APIC takes them from a message

/// A device's bit; devices beyond the 63rd share one. The last bit is the IOMMU's.
u64 bit_of(const PciFunction* from) { return u64{1} << (from ? from->index % 63 : 63); }
std::string_view name_of(const PciFunction* from) { return from ? from->name() : "iommu"; }

}  // namespace

void LocalApic::enable() {
    const MachineEntry entry;
    enabled_ = true;
    told_ = {};
}

void LocalApic::disable() {
    const MachineEntry entry;
    enabled_ = false;
    for (u64& word : requests_) counters.discarded += static_cast<u64>(std::popcount(std::exchange(word, 0)));
}

void LocalApic::reset() {
    const MachineEntry entry;
    enabled_ = false;
    requests_ = {};
    told_ = {};
}

std::optional<u8> LocalApic::take() {
    const MachineEntry entry;
    for (unsigned word = 4; word-- > 0;) {
        if (!requests_[word]) continue;
        const unsigned bit = 63 - static_cast<unsigned>(std::countl_zero(requests_[word]));
        requests_[word] &= ~(u64{1} << bit);
        return static_cast<u8>(word * 64 + bit);
    }
    return std::nullopt;
}

bool LocalApic::pending() const { return requests_[0] | requests_[1] | requests_[2] | requests_[3]; }

void LocalApic::message(PciFunction* from, u64 address, u32 data) {
    const MachineEntry entry;
    unsigned times = 1;
    if (from && machine_.faults.watches(FaultPoint::irq_deliver)) {
        if (const auto action = machine_.faults.visit(FaultPoint::irq_deliver, from->name())) {
            if (action->kind == FaultKind::drop) return lose(from, static_cast<u8>(data), Loss::planned);
            if (action->kind == FaultKind::duplicate) times = 2;
        }
    }
    for (unsigned i = 0; i < times; ++i) arrive(from, address, data);
}

void LocalApic::arrive(PciFunction* from, u64 address, u32 data) {
    Iommu* iommu = from ? machine_.iommu_of(from->segment) : nullptr;
    if (!iommu) return deliver(from, static_cast<u8>(data));
    const Iommu::Remapped remapped = iommu->remap(from->requester_id(), address, data);
    if (remapped.fault != vtd::FaultReason::none) return lose(from, 0, Loss::remapping);
    deliver(from, remapped.vector);
}

void LocalApic::deliver(PciFunction* from, u8 vector) {
    if (!enabled_) return lose(from, vector, Loss::disabled);
    if (vector < vectors_reserved) return lose(from, vector, Loss::vector);
    u64& word = requests_[vector / 64];
    const u64 bit = u64{1} << vector % 64;
    ++(word & bit ? counters.merged : counters.delivered);
    word |= bit;
    for (u64& told : told_) told &= ~bit_of(from);
    if (from) machine_.device_referee.interrupt(*from, vector, DeviceReferee::InterruptFate::delivered);
}

void LocalApic::lose(PciFunction* from, u8 vector, Loss why) {
    std::string_view text;
    switch (why) {
    case Loss::remapping:
        REACHED("irq.lost_remapping");
        ++counters.lost_faults;
        text = "remapping fault";
        break;
    case Loss::disabled:
        ++counters.lost_disabled;
        text = "APIC disabled";
        break;
    case Loss::vector:
        ++counters.lost_vector;
        text = "reserved vector";
        break;
    case Loss::planned:
        ++counters.dropped;
        text = "dropped by a planned fault";
        break;
    }
    u64& told = told_[static_cast<unsigned>(why)];
    if (!(told & bit_of(from)))
        machine_.trace.emit(Layer::machine, "irq.lost",
                            {{"device", name_of(from)}, {"vector", u32{vector}}, {"why", text}});
    told |= bit_of(from);
    if (!from) return;
    using Fate = DeviceReferee::InterruptFate;
    machine_.device_referee.interrupt(*from, vector, why == Loss::planned ? Fate::dropped : Fate::lost);
}

}  // namespace kexec_sim
