#include "luo/file_tree.hpp"

#include <libfdt.h>

#include <charconv>
#include <fmt/format.h>

#include "kernel-model/abi_write.hpp"
#include "luo/abi/trees.hpp"
#include "luo/tree.hpp"

namespace kexec_sim::luo {
namespace {

constexpr const char* who = "file-descriptors";
constexpr const char* site = "luo.fdt";
constexpr const char* prefix = "luo.files";

}  // namespace

std::string token_name(u64 token) { return fmt::format("{:#x}", token); }

std::optional<u64> parse_token(std::string_view name) {
    int base = 10;
    if (name.starts_with("0x") || name.starts_with("0X")) {
        base = 16;
        name.remove_prefix(2);
    } else if (name.size() > 1 && name.starts_with('0')) {
        base = 8;
        name.remove_prefix(1);
    }
    u64 token = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data(), end, token, base);
    if (error != std::errc{} || stop != end) return std::nullopt;
    return token;
}

// --- outgoing
// ------------------------------------------------------------------------------------------------------------

Result<> FileTree::build(const std::map<u64, std::string>& files, std::string& log) {
    const Order order = abi::file_tree_order(files.size());
    const auto block = kernel_.pages.alloc_folio({.order = order, .site = site, .frame_class = FrameClass::luo});
    if (!block) {
        log = fmt::format("Failed to allocate FDT memory ({} bytes)", order.bytes());
        return fail(block.error());
    }
    if (const auto preserved = kho_.preserve_phys(block->pfn.phys(), order.bytes(), who); !preserved) {
        log = fmt::format("Failed to kho preserve FDT memory ({} bytes)", order.bytes());
        kernel_.pages.free_folio(*block);
        return fail(preserved.error());
    }
    block_ = *block;
    if (const auto written = write(files, log); !written) {
        destroy();
        return written;
    }
    return {};
}

Result<> FileTree::write(const std::map<u64, std::string>& files, std::string& log) {
    Errno fault = Errno::ok;
    const auto permitted = [&](const std::string& name) {
        const auto answer = fdt_write_permitted(kernel_.machine, name);
        if (!answer) fault = answer.error();
        return answer && *answer;
    };
    kho::FdtWriter writer(kernel_.machine.ram, block_->phys(), prefix);
    int code = writer.create();
    if (!code && permitted(abi::LUO_FILES_NODE_NAME)) code = writer.begin_node(abi::LUO_FILES_NODE_NAME);
    if (!code && fault == Errno::ok && permitted(abi::PROP_COMPATIBLE))
        code = writer.property_text(abi::PROP_COMPATIBLE, abi::LUO_FILES_COMPATIBLE);
    for (auto file = files.begin(); file != files.end() && !code && fault == Errno::ok; ++file)
        code = write_node(writer, file->first, file->second, fault);
    if (!code && fault == Errno::ok) code = writer.end_node();
    if (!code && fault == Errno::ok) code = writer.finish();
    if (fault == Errno::ok && code == 0) return {};
    const Errno error = fault != Errno::ok ? fault : kho::fdt_errno(code);
    log = fmt::format("Failed to setup FDT: {} (ret {})", kho::fdt_error_text(code ? code : -FDT_ERR_NOSPACE),
                      -static_cast<int>(error));
    return fail(error);
}

int FileTree::write_node(kho::FdtWriter& writer, u64 token, const std::string& compatible, Errno& fault) {
    const auto permitted = [&](const std::string& name) {
        const auto answer = fdt_write_permitted(kernel_.machine, name);
        if (!answer) fault = answer.error();
        return answer && *answer;
    };
    const std::string name = token_name(token);
    if (!permitted(name)) return 0;
    int code = writer.begin_node(name);
    if (!code && permitted(abi::PROP_COMPATIBLE)) code = writer.property_text(abi::PROP_COMPATIBLE, compatible);
    if (!code && fault == Errno::ok && permitted(abi::PROP_DATA)) code = writer.property_u64(abi::PROP_DATA, 0);
    if (!code && fault == Errno::ok) code = writer.end_node();
    return code;
}

int FileTree::write_data(u64 token, u64 data) {
    if (!exists()) return -FDT_ERR_NOTFOUND;  // a planned fault: nobody prepared, and all go on as if somebody had
    const auto permitted = fdt_write_permitted(kernel_.machine, abi::PROP_DATA);
    if (!permitted) return -FDT_ERR_NOSPACE;
    if (!*permitted) return 0;
    kho::FdtEditor editor(kernel_.machine.ram, block_->phys(), prefix);
    const int node = editor.node_offset("/" + token_name(token));
    if (node < 0) return node;
    return editor.set_property_u64_in_place(node, abi::PROP_DATA, data);
}

void FileTree::remove_node(u64 token) {
    if (!exists() || abi_write_dropped("luo.files.remove")) return;
    void* fdt = kernel_.machine.ram.writable(block_->phys());
    const int node = fdt_subnode_offset(fdt, 0, token_name(token).c_str());
    if (node >= 0) static_cast<void>(fdt_del_node(fdt, node));
}

void FileTree::destroy() {
    if (!exists()) return;
    // Refused while KHO is finalized, after a failed freeze; the block is freed all the same (LUO-D5).
    static_cast<void>(kho_.unpreserve_phys(block_->pfn.phys(), block_->order.bytes(), who));
    kernel_.pages.free_folio(*block_);
    block_.reset();
}

// --- incoming
// ------------------------------------------------------------------------------------------------------------

int FileTree::adopt(PhysAddr phys, bool by_kernel) {
    constexpr u64 bytes_max = Order{max_page_order}.bytes();
    auto reader = by_kernel ? kho::FdtReader::open(kernel_.machine, phys, bytes_max)
                            : kho::FdtReader::open(kernel_.machine.ram, phys, bytes_max);
    if (!reader) return reader.error();
    if (const int code = reader->check_compatible(kho::FdtReader::root, abi::LUO_FILES_COMPATIBLE)) return code;
    reader_ = std::move(*reader);
    incoming_ = phys;
    return 0;
}

std::vector<FileTree::Node> FileTree::nodes() const {
    std::vector<Node> found;
    if (!reader_) return found;
    int node = reader_->first_subnode(kho::FdtReader::root);
    for (; node >= 0; node = reader_->next_subnode(node)) {
        Node entry{reader_->node_name(node), std::nullopt, reader_->property_u64(node, abi::PROP_DATA)};
        if (const auto text = reader_->property_text(node, abi::PROP_COMPATIBLE))
            entry.compatible = std::string(*text);
        found.push_back(std::move(entry));
    }
    // Damage in the structure: the rest of the nodes cannot be reached. Say so rather than lose them.
    if (node != -FDT_ERR_NOTFOUND) found.push_back({});
    return found;
}

void FileTree::release_incoming(bool strict) {
    if (!reader_) return;
    reader_.reset();
    release_incoming_block(kernel_, kho_, incoming_, who, site, strict);
}

void release_incoming_block(Kernel& kernel, kho::Kho& kho, PhysAddr phys, std::string_view who, std::string_view site,
                            bool strict) {
    if (strict) {
        const auto block = kho.restore_folio(phys, who, FrameClass::luo);
        if (block) kernel.pages.free_folio(*block);
        return;
    }
    const PageMap::Block block = kernel.pages.block(phys.pfn());
    if (block.meta.state == PageState::preserved)
        kernel.pages.set_class(pfn_range(block.head, block.meta.order.pages()), site, FrameClass::overhead);
}

}  // namespace kexec_sim::luo
