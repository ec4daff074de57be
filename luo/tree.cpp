#include "luo/tree.hpp"

#include <libfdt.h>

#include "luo/abi/trees.hpp"
#include "luo/file_tree.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {
namespace {

constexpr const char* subsystems_path = "/subsystems";
constexpr const char* who = "luo";
constexpr const char* site = "luo.tree";

}  // namespace

Result<bool> fdt_write_permitted(Machine& machine, std::string_view name) {
    const auto fault = machine.faults.visit(FaultPoint::luo_fdt_write, name);
    if (fault && fault->kind == FaultKind::fail) return fail(fault->error);
    return !fault || fault->kind != FaultKind::skip;
}

// --- outgoing
// ------------------------------------------------------------------------------------------------------------

Result<> Tree::build(std::span<Subsystem* const> subsystems) {
    const auto failed = [&](Errno error) {
        REACHED("luo.tree.not_prepared");
        kernel_.log.err("{}failed to prepare LUO FDT: {}", edition_.prefix.core, -static_cast<int>(error));
        return fail(error);
    };
    const auto page = kernel_.pages.alloc_folio({.order = Order{0}, .site = site, .frame_class = FrameClass::luo});
    if (!page) {
        REACHED("luo.tree.no_memory");
        kernel_.log.err("{}failed to allocate FDT memory", edition_.prefix.core);
        return failed(page.error());
    }
    const PhysAddr phys = page->pfn.phys();
    const auto free_page = [&](Errno error) {
        kernel_.pages.free_folio(*page);
        page_.reset();
        return failed(error);
    };
    page_ = page->pfn;
    if (const auto written = write(subsystems); !written) return free_page(written.error());
    if (const auto preserved = kho_.preserve_phys(phys, abi::LUO_FDT_SIZE, who); !preserved)
        return free_page(preserved.error());
    if (const auto added = kho_.add_subtree(abi::LUO_KHO_ENTRY_NAME, phys); !added) {
        static_cast<void>(kho_.unpreserve_phys(phys, abi::LUO_FDT_SIZE, who));
        return free_page(added.error());
    }
    return {};
}

Result<> Tree::write(std::span<Subsystem* const> subsystems) {
    kho::FdtEditor editor(kernel_.machine.ram, phys_range(page(), abi::LUO_FDT_SIZE), "luo.tree");
    if (const int code = editor.create_empty()) return fail(kho::fdt_errno(code));
    if (TRY(fdt_write_permitted(kernel_.machine, abi::PROP_COMPATIBLE)))
        if (const int code =
                editor.set_property_text(kho::FdtReader::root, abi::PROP_COMPATIBLE, abi::LUO_COMPATIBLE))
            return fail(kho::fdt_errno(code));
    return write_subsystems(editor, subsystems);
}

Result<> Tree::write_subsystems(kho::FdtEditor& root, std::span<Subsystem* const> subsystems) {
    Machine& machine = kernel_.machine;
    const auto permitted = [&](const std::string& name) { return fdt_write_permitted(machine, name); };
    const auto made = permitted(abi::LUO_SUBSYSTEMS_NODE_NAME);
    if (!made) return setup_failed(-FDT_ERR_NOSPACE);
    if (!*made) return {};
    const int node = root.add_node(kho::FdtReader::root, abi::LUO_SUBSYSTEMS_NODE_NAME);
    if (node < 0) return setup_failed(node);
    kho::FdtEditor editor(machine.ram, phys_range(page(), abi::LUO_FDT_SIZE), "luo.subsystems");
    const auto compatible = permitted(abi::PROP_COMPATIBLE);
    if (!compatible) return setup_failed(-FDT_ERR_NOSPACE);
    if (*compatible)
        if (const int code = editor.set_property_text(node, abi::PROP_COMPATIBLE, abi::LUO_SUBSYSTEMS_COMPATIBLE))
            return setup_failed(code);
    for (Subsystem* subsystem : subsystems) {
        const auto room = permitted(subsystem->name);
        if (!room) return setup_failed(-FDT_ERR_NOSPACE);
        if (!*room) continue;
        if (const int code = editor.set_property_u64(node, subsystem->name, 0)) return setup_failed(code);
    }
    return {};
}

Result<> Tree::setup_failed(int code) {
    REACHED("luo.tree.no_node");
    kernel_.log.err("{}Failed to setup 'subsystems' node to FDT: {}", edition_.prefix.subsystems,
                    kho::fdt_error_text(code));
    return fail(Errno::enospc);
}

Result<> Tree::commit(std::span<Subsystem* const> subsystems) {
    INVARIANT(exists());
    kho::FdtEditor editor(kernel_.machine.ram, phys_range(page(), abi::LUO_FDT_SIZE), "luo.subsystems");
    const int node = editor.node_offset(subsystems_path);
    for (Subsystem* subsystem : subsystems) {
        const auto permitted = fdt_write_permitted(kernel_.machine, subsystem->name);
        if (permitted && !*permitted) continue;
        int code = -FDT_ERR_NOSPACE;
        if (permitted)
            code =
                node < 0 ? node : editor.set_property_u64_in_place(node, subsystem->name, subsystem->private_data());
        if (code == 0) continue;
        REACHED("luo.tree.no_property");
        kernel_.log.err("{}Failed to set FDT property for subsystem '{}' {}", edition_.prefix.subsystems,
                        subsystem->name, kho::fdt_error_text(code));
        return fail(Errno::enoent);
    }
    return {};
}

void Tree::destroy() {
    INVARIANT(exists());
    static_cast<void>(kho_.unpreserve_phys(page(), abi::LUO_FDT_SIZE, who));
    static_cast<void>(kho_.remove_subtree(page()));
    kernel_.pages.free_folio({*page_, Order{0}});
    page_.reset();
}

void Tree::leak() {
    INVARIANT(exists());
    kernel_.pages.set_class(pfn_range(*page_, 1), site, FrameClass::overhead);
    page_.reset();
}

// --- incoming
// ------------------------------------------------------------------------------------------------------------

void Tree::adopt(PhysAddr phys) {
    const auto incompatible = [](std::string_view name, std::string_view compatible, int code) {
        REACHED("luo.tree.incompatible");
        throw KernelPanic(fmt::format("FDT '{}' is incompatible with '{}' [{}]", name, compatible, code));
    };
    auto reader = kho::FdtReader::open(kernel_.machine, phys, abi::LUO_FDT_SIZE);
    const int code = reader ? reader->check_compatible(kho::FdtReader::root, abi::LUO_COMPATIBLE) : reader.error();
    if (code) incompatible(abi::LUO_KHO_ENTRY_NAME, abi::LUO_COMPATIBLE, code);
    const int node = reader->subnode(kho::FdtReader::root, abi::LUO_SUBSYSTEMS_NODE_NAME);
    if (node < 0) {
        REACHED("luo.tree.no_subsystems");
        throw KernelPanic("Failed to find /subsystems node");
    }
    if (const int sub_code = reader->check_compatible(node, abi::LUO_SUBSYSTEMS_COMPATIBLE))
        incompatible(abi::LUO_SUBSYSTEMS_NODE_NAME, abi::LUO_SUBSYSTEMS_COMPATIBLE, sub_code);
    reader_ = std::move(*reader);
    incoming_page_ = phys;
}

std::optional<u64> Tree::incoming_data(const std::string& name, std::string* why) const {
    if (!reader_) return std::nullopt;
    const int node = reader_->subnode(kho::FdtReader::root, abi::LUO_SUBSYSTEMS_NODE_NAME);
    const auto value = reader_->property(node, name);
    const auto data = reader_->property_u64(node, name);
    // The kernel hands fdt_strerror() what the look-up left: an error, or the wrong length.
    if (!data && why) *why = kho::fdt_error_text(value ? static_cast<int>(value->size()) : -FDT_ERR_NOTFOUND);
    return data;
}

void Tree::release_incoming(bool strict) {
    if (!reader_) return;
    reader_.reset();
    release_incoming_block(kernel_, kho_, incoming_page_, who, site, strict);
}

}  // namespace kexec_sim::luo
