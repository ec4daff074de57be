#include "sim/dump.hpp"

#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>

#include "kernel-model/boot_params.hpp"
#include "kho/fdt.hpp"

namespace kexec_sim::sim {
namespace {

void write_blob(const std::filesystem::path& path, std::span<const std::byte> blob) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(blob.data()), static_cast<std::streamsize>(blob.size()));
    out.close();
    if (!out) throw UserError(fmt::format("kexec-sim: error: {}: cannot be written", path.string()));
}

/// A node's name as part of a file's name.
std::string file_part(std::string name) {
    for (char& c : name)
        if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') c = '_';
    return name;
}

void dump_file_tree(const Machine& machine, const kho::FdtReader& luo, const std::filesystem::path& dir) {
    const int node = luo.node_offset("/subsystems");
    if (node < 0) return;
    const auto phys = luo.property_u64(node, "file-descriptors");
    if (!phys || *phys == 0) return;
    const auto files = kho::FdtReader::open(machine.ram, PhysAddr{*phys});
    if (!files) return;
    write_blob(dir / fmt::format("gen{}-file-descriptors.dtb", machine.generation), files->blob());
    for (int child = files->first_subnode(kho::FdtReader::root); child >= 0; child = files->next_subnode(child)) {
        const auto data = files->property_u64(child, "data");
        if (!data || *data == 0) continue;
        if (const auto tree = kho::FdtReader::open(machine.ram, PhysAddr{*data}))
            write_blob(dir / fmt::format("gen{}-file-{}.dtb", machine.generation, file_part(files->node_name(child))),
                       tree->blob());
    }
}

}  // namespace

void dump_handover(const Machine& machine, const RunState& state, const std::string& dir_name) {
    const std::filesystem::path dir(dir_name);
    std::error_code error;
    std::filesystem::create_directories(dir, error);
    if (error) throw UserError(fmt::format("kexec-sim: error: {}: {}", dir_name, error.message()));
    if (!state.handover_passed) return;
    const BootParams params =
        read_boot_params(machine.ram, phys_range(PhysAddr{state.boot_params_begin}, state.boot_params_bytes));
    for (const SetupData& entry : params.setup_data) {
        if (entry.type != SETUP_KEXEC_KHO || entry.payload.size() < 8) continue;
        u64 root_phys = 0;
        std::memcpy(&root_phys, entry.payload.data(), sizeof root_phys);
        const auto root = kho::FdtReader::open(machine.ram, PhysAddr{root_phys});
        if (!root) continue;
        write_blob(dir / fmt::format("gen{}-root.dtb", machine.generation), root->blob());
        for (int child = root->first_subnode(kho::FdtReader::root); child >= 0; child = root->next_subnode(child)) {
            const auto phys = root->property_u64(child, "fdt");
            if (!phys) continue;
            const auto tree = kho::FdtReader::open(machine.ram, PhysAddr{*phys});
            if (!tree) continue;
            const std::string name = root->node_name(child);
            write_blob(dir / fmt::format("gen{}-{}.dtb", machine.generation, file_part(name)), tree->blob());
            if (name == "LUO") dump_file_tree(machine, *tree, dir);
        }
    }
}

}  // namespace kexec_sim::sim
