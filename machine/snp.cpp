#include "machine/snp.hpp"

#include <algorithm>
#include <fmt/format.h>

#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

/// A permutation of 64-bit words without visible order (the finalizer of SplitMix64).
constexpr u64 mixed(u64 word) {
    word = (word ^ word >> 30) * 0xbf58'476d'1ce4'e5b9;
    word = (word ^ word >> 27) * 0x94d0'49bb'1331'11eb;
    return word ^ word >> 31;
}

/// What the 8 bytes at `phys`, a multiple of 8, are combined with. Its own inverse, so it encrypts and decrypts.
constexpr u64 stream(u64 key, u64 phys) { return mixed(key ^ mixed(phys + 0x9e37'79b9'7f4a'7c15)); }

void crypt(u64 key, PhysAddr phys, std::span<std::byte> bytes) {
    for (u64 done = 0; done < bytes.size();) {
        const u64 at = phys.raw + done, skipped = at & 7, count = std::min<u64>(8 - skipped, bytes.size() - done);
        const u64 mask = stream(key, at - skipped) >> 8 * skipped;
        u64 word = 0;
        std::memcpy(&word, bytes.data() + done, count);
        word ^= mask;
        std::memcpy(bytes.data() + done, &word, count);
        done += count;
    }
}

/// A short text without the heap: this may run where nothing may be allocated.
struct Text {
    std::array<char, 32> bytes{};
    u64 length = 0;
    std::string_view view() const { return {bytes.data(), length}; }
};
Text guest_text(u16 asid) {
    Text text;
    text.length = fmt::format_to_n(text.bytes.data(), text.bytes.size(), "guest of ASID {}", asid).size;
    return text;
}
Text owner_text(u16 asid) {
    if (asid) return guest_text(asid);
    constexpr std::string_view firmware = "firmware";
    Text text;
    text.length = firmware.copy(text.bytes.data(), firmware.size());
    return text;
}

PfnRange frames_of(PhysRange range) { return {range.begin.pfn(), PhysAddr{range.end.raw + page_bytes - 1}.pfn()}; }

}  // namespace

SnpFirmware::SnpFirmware(Machine& machine, std::pmr::memory_resource* memory)
    : machine_(machine),
      assigned_(memory),
      blank_(memory),
      contexts_(memory) {}

void SnpFirmware::switch_to(bool enabled) {
    const MachineEntry entry;
    assigned_.clear();
    blank_.clear();
    contexts_.clear();
    enabled_ = enabled;
    machine_.ram.reverse_map = enabled ? this : nullptr;
}
void SnpFirmware::enable() {
    if (!enabled_) switch_to(true);
}
void SnpFirmware::shutdown() { switch_to(false); }
void SnpFirmware::reset() { switch_to(false); }

// --- the firmware's commands -------------------------------------------------------------------------------------

const SnpFirmware::Context* SnpFirmware::context_of(u16 asid) const {
    for (const auto& [page, context] : contexts_)
        if (context.asid == asid) return &context;
    return nullptr;
}

/// What the firmware keeps in a context page. It holds only there: the address is part of it.
SnpFirmware::ContextWords SnpFirmware::context_words(Pfn page, const Context& context) const {
    const u64 phys = page.phys().raw, wrapped = context.key ^ stream(machine_.seed, phys);
    return {0x3078'7463'706e'73, context.asid, wrapped, mixed(wrapped ^ mixed(phys + context.asid))};
}

Result<> SnpFirmware::create_context(Pfn page, u16 asid) {
    const MachineEntry entry;
    if (!enabled_ || asid == 0 || !machine_.ram.contains(page.phys(), page_bytes)) return fail(Errno::einval);
    if (context_of(asid) || assigned_.find(page)) return fail(Errno::ebusy);  // S2, S1
    const Context context{asid, mixed(machine_.seed ^ mixed(++keys_drawn_))};
    contexts_.emplace(page.raw, context);
    assigned_.assign(pfn_range(page, 1), {});
    machine_.ram.zero(pfn_range(page, 1).phys());
    machine_.ram.write(page.phys(), context_words(page, context));
    return {};
}

Result<u16> SnpFirmware::context_asid(Pfn page) const {
    const MachineEntry entry;
    const auto found = contexts_.find(page.raw);
    if (found == contexts_.end()) return fail(Errno::enoent);
    if (machine_.ram.read<ContextWords>(page.phys()) != context_words(page, found->second)) {
        REACHED("snp.context_damaged");
        return fail(Errno::enoent);
    }
    return found->second.asid;
}

Result<> SnpFirmware::destroy_context(Pfn page) {
    const MachineEntry entry;
    const auto found = contexts_.find(page.raw);
    if (found == contexts_.end()) return fail(Errno::enoent);
    const u16 asid = found->second.asid;
    contexts_.erase(found);
    assigned_.erase(pfn_range(page, 1));
    // Zeros in RAM are zeros to this key only.
    assigned_.visit_all([&](PfnRange frames, const Assigned& assigned) {
        if (assigned.asid == asid) blank_.erase(frames);
    });
    return {};
}

Result<> SnpFirmware::assign(PfnRange frames, u16 asid, u64 first_gfn) {
    const MachineEntry entry;
    if (!enabled_ || asid == 0 || frames.empty() || !machine_.ram.contains(frames.phys())) return fail(Errno::einval);
    const Context* context = context_of(asid);
    if (!context) return fail(Errno::einval);
    const Assigned wanted{asid, frames.begin.raw - first_gfn};
    bool foreign = false;
    assigned_.visit(frames, [&](PfnRange, const Assigned& assigned) { foreign |= !(assigned == wanted); });
    if (foreign) return fail(Errno::ebusy);  // S1

    assigned_.visit_gaps(frames, [&](PfnRange fresh) {
        blank_.assign(fresh, {});
        PhysicalMemory& ram = machine_.ram;
        for (Pfn pfn = ram.next_written(fresh.begin, fresh.end); pfn < fresh.end;
             pfn = ram.next_written(pfn + 1, fresh.end)) {
            blank_.erase(pfn_range(pfn, 1));
            crypt(context->key, pfn.phys(), {ram.writable(pfn_range(pfn, 1).phys()), page_bytes});
        }
    });
    assigned_.assign(frames, wanted);
    return {};
}

Result<> SnpFirmware::reclaim(PfnRange frames) {
    const MachineEntry entry;
    bool firmware = false;
    assigned_.visit(frames, [&](PfnRange, const Assigned& assigned) { firmware |= assigned.asid == 0; });
    if (firmware) return fail(Errno::eperm);
    assigned_.erase(frames);
    blank_.erase(frames);
    return {};
}

std::optional<u16> SnpFirmware::guest_of(PfnRange frames, u64 first_gfn) const {
    const Assigned* first = frames.empty() ? nullptr : assigned_.find(frames.begin);
    if (!first || first->asid == 0 || first->gfn_offset != frames.begin.raw - first_gfn) return std::nullopt;
    bool all = true;
    assigned_.visit(frames, [&](PfnRange, const Assigned& assigned) { all = all && assigned == *first; });
    assigned_.visit_gaps(frames, [&](PfnRange) { all = false; });
    return all ? std::optional(first->asid) : std::nullopt;
}

// --- the hardware's checks ---------------------------------------------------------------------------------------

RmpOwner SnpFirmware::owner(Pfn frame) const {
    const Assigned* assigned = assigned_.find(frame);
    if (!assigned) return RmpOwner::hypervisor;
    return assigned->asid ? RmpOwner::guest : RmpOwner::firmware;
}

bool SnpFirmware::touches(PhysRange range) const { return assigned_.touches(frames_of(range)); }

/// Tells the referee of the first of `frames` that is assigned.
void SnpFirmware::violation(PfnRange frames, std::string_view who) const {
    const MachineEntry entry;
    bool told = false;
    assigned_.visit(frames, [&](PfnRange part, const Assigned& assigned) {
        if (!told) machine_.device_referee.reverse_map_violation(part, who, owner_text(assigned.asid).view());
        told = true;
    });
}

void SnpFirmware::check_host(PhysRange range, bool write) const {
    if (assigned_.empty() || range.empty() || !touches(range)) return;
    REACHED("snp.host_fault");
    violation(frames_of(range), "kernel");
    u64 first = 0;
    Text owner;
    assigned_.visit(frames_of(range), [&](PfnRange part, const Assigned& assigned) {
        if (owner.length) return;
        first = std::max(part.begin.phys().raw, range.begin.raw);
        owner = owner_text(assigned.asid);
    });
    throw KernelPanic(fmt::format("RMP fault: the kernel {} {:#x}, a page of the {}",
                                  write ? "wrote to" : "read from", first, owner.view()));
}

Result<std::optional<u64>> SnpFirmware::key_for(u16 asid, u64 gfn, Pfn frame) const {
    const Assigned* assigned = assigned_.find(frame);
    if (!assigned) return std::optional<u64>{};
    if (asid == 0 || assigned->asid != asid || frame.raw - assigned->gfn_offset != gfn) {
        REACHED("snp.guest_refused");
        violation(pfn_range(frame, 1), asid ? guest_text(asid).view() : "guest");
        return fail(Errno::efault);
    }
    const Context* context = context_of(asid);
    if (!context) return fail(Errno::efault);
    return std::optional<u64>{context->key};
}

Result<> SnpFirmware::guest_read(u16 asid, u64 gfn, PhysAddr phys, std::span<std::byte> out) const {
    const MachineEntry entry;
    INVARIANT(phys.offset_in_page() + out.size() <= page_bytes);
    if (!machine_.ram.contains(phys, out.size())) return fail(Errno::efault);
    const std::optional<u64> key = TRY(key_for(asid, gfn, phys.pfn()));
    machine_.ram.read_bytes(phys, out);
    if (key && !(blank_.find(phys.pfn()))) crypt(*key, phys, out);
    return {};
}

Result<> SnpFirmware::guest_write(u16 asid, u64 gfn, PhysAddr phys, std::span<const std::byte> in) {
    const MachineEntry entry;
    INVARIANT(phys.offset_in_page() + in.size() <= page_bytes);
    PhysicalMemory& ram = machine_.ram;
    if (!ram.contains(phys, in.size())) return fail(Errno::efault);
    const std::optional<u64> key = TRY(key_for(asid, gfn, phys.pfn()));
    const PfnRange frame = pfn_range(phys.pfn(), 1);
    if (key && blank_.find(frame.begin)) {
        crypt(*key, frame.begin.phys(), {ram.writable(frame.phys()), page_bytes});
        blank_.erase(frame);
    }
    ram.write_bytes(phys, in);
    if (key) crypt(*key, phys, {ram.writable(phys_range(phys, in.size())), in.size()});
    return {};
}

}  // namespace kexec_sim
