// The incoming set: what the previous kernel's tree says, and the files that are restored from it.
#include "luo/abi/trees.hpp"
#include "luo/orchestrator.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::luo {

void Files::boot(u64 data) {
    if (const int code = tree_.adopt(PhysAddr{data})) {
        REACHED("luo.incoming.incompatible");
        throw KernelPanic(fmt::format("FDT '{}' is incompatible with '{}' [{}]", abi::LUO_FILES_NODE_NAME,
                                      abi::LUO_FILES_COMPATIBLE, code));
    }
}

void Files::rebuild() {
    if (std::exchange(rebuilt_, true)) return;
    const ReadGuard list_guard(handlers_lock_);
    for (const FileTree::Node& node : tree_.nodes()) add_incoming(node);
}

void Files::add_incoming(const FileTree::Node& node) {
    if (node.name.empty()) {
        REACHED("luo.incoming.name_unreadable");
        throw KernelPanic("Can't read the name of a node in the FDT for file descriptors");
    }
    const auto token = parse_token(node.name);
    if (!token) {
        REACHED("luo.incoming.name_no_token");
        throw KernelPanic(fmt::format("FDT node '{}': name is not a token", node.name));
    }
    if (incoming_.contains(*token)) {
        REACHED("luo.incoming.token_twice");
        throw KernelPanic(fmt::format("Duplicate token {} found in incoming FDT for file descriptors.", *token));
    }
    if (!node.compatible) {
        REACHED("luo.incoming.no_compatible");
        throw KernelPanic(fmt::format("FDT node '{}': no 'compatible' property", node.name));
    }
    if (!node.data) {
        REACHED("luo.incoming.no_data");
        throw KernelPanic(fmt::format("Can't recover property 'data' for FDT node '{}'", node.name));
    }
    FileHandler* handler = find_handler(*node.compatible);
    if (!handler) {
        REACHED("luo.incoming.no_handler");
        throw KernelPanic(
            fmt::format("FDT node '{}': No registered handler for compatible '{}'", node.name, *node.compatible));
    }
    Record& record = incoming_[*token];
    record.handler = handler;
    record.data = *node.data;
    record.state = LuoState::updated;
    record.lock = std::make_unique<TaskLock>(kernel_.machine, "the lock of file " + token_name(*token));
}

Result<FileRef> Files::retrieve(u64 token) {
    const ReadGuard state_guard(orchestrator_.state_lock());
    if (orchestrator_.state() != LuoState::updated) {
        REACHED("luo.restore.wrong_state");
        log(LogLevel::warn, "File can be retrieved only in updated state");
        return fail(Errno::ebusy);
    }
    rebuild();
    const auto at = incoming_.find(token);
    if (at == incoming_.end()) {
        kernel_.machine.referee.file_restore_failed(token, Errno::enoent);
        return fail(Errno::enoent);
    }
    Record& record = at->second;
    const WriteGuard guard(*record.lock);
    if (record.reclaimed || record.state != LuoState::updated) {
        REACHED("luo.restore.twice");
        log(LogLevel::warn, fmt::format("The file descriptor for token {} has already been retrieved", token));
        return fail(Errno::einval);
    }
    record.reclaimed = true;  // before the handler runs: a failure cannot be tried again
    auto file = call_retrieve(token, record);
    if (!file) {
        kernel_.machine.referee.file_restore_failed(token, file.error());
        return file;
    }
    record.file = *file;
    return file;
}

Result<FileRef> Files::call_retrieve(u64 token, Record& record) {
    Machine& machine = kernel_.machine;
    const std::string& compatible = record.handler->compatible;
    machine.trace.emit(Layer::luo, "luo.file.retrieve", {hex_field("token", token), {"handler", compatible}},
                       Phase::begin);
    Result<FileRef> file = fail(Errno::enoent);
    const auto result = under_fault(machine.faults, FaultPoint::luo_file_retrieve, compatible, [&]() -> Result<> {
        file = record.handler->retrieve(record.data);
        return file ? Result<>{} : Result<>(fail(file.error()));
    });
    if (!result) file = fail(result.error());
    machine.trace.emit(Layer::luo, "luo.file.retrieve",
                       {hex_field("token", token), {"handler", compatible}, result_field(result)}, Phase::end);
    return file;
}

}  // namespace kexec_sim::luo
