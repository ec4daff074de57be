// Memory cycles: down from the root complex to a BAR, and requests of functions up to the root complex, to a sibling of
// their switch, to RAM, to another function, to the interrupt controller (fabric.hpp has the rules).
//
//   request ──► gates ──► piece by piece: ──► turns at a switch? ──► interrupt? ──► IOMMU ──► RAM, or down to a BAR
//
// A piece ends at a page boundary, and where the IOMMU's translation is contiguous no further. What a piece has done
// stays done when a later one fails.
#include <algorithm>

#include "machine/machine.hpp"
#include "machine/reached.hpp"

namespace kexec_sim {
namespace {

/// 0xfee00000 to 0xfeefffff.
bool is_interrupt_address(u64 address) { return address >> 20 == 0xfee; }

/// memcpy, without the call for the sizes of which a tick makes three of its four accesses.
void copy_bytes(std::byte* to, const std::byte* from, u64 bytes) {
    switch (bytes) {
    case 4: std::memcpy(to, from, 4); break;
    case 16: std::memcpy(to, from, 16); break;
    case 32: std::memcpy(to, from, 32); break;
    default: std::memcpy(to, from, bytes); break;
    }
}

std::string_view owner_name(RmpOwner owner) {
    switch (owner) {
    case RmpOwner::hypervisor: return "hypervisor";
    case RmpOwner::guest: return "guest";
    case RmpOwner::firmware: return "firmware";
    }
    return "?";
}

}  // namespace

PciFabric::Target PciFabric::target_among(PciFunction* first, u64 address) const {
    for (PciFunction* function = first; function; function = function->next_sibling_) {
        if (function->is_bridge()) {
            if (function->passes_memory(address)) return target_among(function->first_child_, address);
        } else if (const auto at = function->decode(address)) {
            return {function, *at};
        }
    }
    return {};
}

PciFabric::Target PciFabric::target_at(u64 address) const {
    for (PciFunction* first : roots_)
        if (const Target target = target_among(first, address); target.function) return target;
    return {};
}

BusStatus PciFabric::memory_read(u64 address, std::span<std::byte> out) {
    const MachineEntry entry;
    const Target target = target_at(address);
    if (!target.function || target.at.offset + out.size() > target.function->bar(target.at.bar).bytes)
        return BusStatus::unsupported;
    target.function->memory_read(target.at.bar, target.at.offset, out);
    return BusStatus::ok;
}

BusStatus PciFabric::memory_write(u64 address, std::span<const std::byte> in, const PciFunction* from) {
    const MachineEntry entry;
    const Target target = target_at(address);
    if (!target.function || target.at.offset + in.size() > target.function->bar(target.at.bar).bytes)
        return BusStatus::unsupported;
    if (from)
        target.function->memory_write(target.at.bar, target.at.offset, in, *from);
    else
        target.function->cpu_write(target.at.bar, target.at.offset, in);
    return BusStatus::ok;
}

// --- requests ------------------------------------------------------------------------------------------------------

PciFabric::Route PciFabric::route_of(PciFunction& from) {
    Route route{from, nullptr, true, false};
    for (const PciFunction* function = &from; function; function = function->parent) {
        if (!function->lets_requests_out()) return {from, nullptr, false, false};
        if (function->model == PciModel::switch_downstream && !function->redirects_requests()) route.may_turn = true;
    }
    Iommu* iommu = machine_.iommus.empty() ? nullptr : machine_.iommu_of(from.segment);
    if (iommu && iommu->translation_enabled()) route.iommu = iommu;
    return route;
}

PciFabric::Turn PciFabric::turn_at_switch(const PciFunction& from, u64 address) const {
    for (const PciFunction* port = from.parent; port; port = port->parent) {
        if (port->model != PciModel::switch_downstream || port->redirects_requests()) continue;
        for (PciFunction* sibling = port->parent->first_child_; sibling; sibling = sibling->next_sibling_)
            if (sibling != port && sibling->passes_memory(address))
                return {true, target_among(sibling->first_child_, address)};
    }
    return {};
}

/// A piece of a request at the root complex, with the address that it goes to from there. It lies in one frame.
[[gnu::always_inline]] inline BusStatus PciFabric::arrive(const Request& request, u64 iova, u64 phys,
                                                          std::span<std::byte> data) {
    PhysicalMemory& ram = machine_.ram;
    const PhysRange range = phys_range(PhysAddr{phys}, data.size());
    if (machine_.snp.enabled() && ram.contains(range.begin, data.size()) && !machine_.snp.allows_device(range)) {
        const Pfn frame = range.begin.pfn();
        machine_.device_referee.reverse_map_violation(pfn_range(frame, 1), request.route.from.name(),
                                                      owner_name(machine_.snp.owner(frame)));
        return BusStatus::reverse_map;
    }
    if (request.write) {
        if (std::byte* to = ram.device_writes(range.begin, data.size())) {
            copy_bytes(to, data.data(), data.size());
            machine_.device_referee.dma_written(request.route.from, iova, range);
            return BusStatus::ok;
        }
    } else if (const std::byte* from = ram.device_reads(range.begin, data.size())) {
        if (request.in_place)
            *request.in_place = from;
        else
            copy_bytes(data.data(), from, data.size());
        machine_.device_referee.dma_read(request.route.from, iova, range);
        return BusStatus::ok;
    }
    const Target target = target_at(phys);
    if (target.function) ++counters.turned_at_root;
    return hand_over(request, iova, target, data);
}

/// With arrive(), once in each of its callers: four times a tick this is the way, and it knows there where it leads.
[[gnu::always_inline]] inline BusStatus PciFabric::request(Request request, u64 address, std::span<std::byte> data) {
    const Route& route = request.route;
    PciFunction& from = route.from;
    if (!route.open) [[unlikely]] {
        REACHED("pci.request.no_bus_master");
        ++from.dropped;
        return BusStatus::no_bus_master;
    }
    for (u64 done = 0; done < data.size();) {
        const u64 iova = address + done;
        u64 bytes = std::min(data.size() - done, page_bytes - (iova & (page_bytes - 1)));
        BusStatus status = BusStatus::ok;
        Turn turn;
        if (route.may_turn) [[unlikely]]
            turn = turn_at_switch(from, iova);
        if (turn.claimed) [[unlikely]] {
            ++counters.turned_at_switch;
            status = hand_over(request, iova, turn.target, data.subspan(done, bytes));
        } else if (is_interrupt_address(iova)) {
            if (!request.write || bytes != 4 || iova % 4 != 0) return BusStatus::unsupported;
            u32 message = 0;
            std::memcpy(&message, data.data() + done, 4);
            machine_.apic.message(&from, iova, message);
        } else {
            u64 phys = iova;
            if (route.iommu) {
                const Iommu::Translation translation =
                    route.iommu->translate(from.requester_id(), iova, request.write);
                if (translation.fault != vtd::FaultReason::none) return BusStatus::translation;
                INVARIANT(translation.contiguous > 0);
                phys = translation.address;
                bytes = std::min(bytes, translation.contiguous);
            }
            if (bytes < data.size()) request.in_place = nullptr;
            status = arrive(request, iova, phys, data.subspan(done, bytes));
        }
        if (status != BusStatus::ok) return status;
        done += bytes;
    }
    return BusStatus::ok;
}

BusStatus PciFabric::dma_read(PciFunction& from, u64 address, std::span<std::byte> out) {
    return dma_read(route_of(from), address, out);
}

BusStatus PciFabric::dma_write(PciFunction& from, u64 address, std::span<const std::byte> in) {
    return dma_write(route_of(from), address, in);
}

BusStatus PciFabric::dma_read(const Route& route, u64 address, std::span<std::byte> out) {
    const MachineEntry entry;
    return request({route, false}, address, out);
}

BusStatus PciFabric::dma_write(const Route& route, u64 address, std::span<const std::byte> in) {
    const MachineEntry entry;
    // Nothing is stored through the pointer of a request that writes.
    return request({route, true}, address, {const_cast<std::byte*>(in.data()), in.size()});
}

PciFabric::InPlace PciFabric::dma_read_in_place(const Route& route, u64 address, std::span<std::byte> room) {
    const MachineEntry entry;
    InPlace result{BusStatus::ok, room.data()};
    result.status = request({route, false, &result.bytes}, address, room);
    return result;
}

BusStatus PciFabric::hand_over(const Request& request, u64 iova, const Target& target, std::span<std::byte> data) {
    if (!target.function || target.at.offset + data.size() > target.function->bar(target.at.bar).bytes) {
        REACHED("pci.request.unsupported");
        return BusStatus::unsupported;
    }
    if (request.write) {
        target.function->memory_write(target.at.bar, target.at.offset, data, request.route.from);
        machine_.device_referee.dma_written_to_peer(request.route.from, iova, *target.function);
    } else {
        target.function->memory_read(target.at.bar, target.at.offset, data);
    }
    return BusStatus::ok;
}

}  // namespace kexec_sim
