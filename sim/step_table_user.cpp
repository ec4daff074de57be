#include "sim/step_table.hpp"

// One row a step, laid out as a table.
// clang-format off
namespace kexec_sim::sim {
namespace {

using namespace fields;
using Type = FieldType;
using Form = StepForm;

constexpr std::string_view memfd_flags[] = {"cloexec", "allow_sealing", "hugetlb", "noexec_seal", "exec"};
constexpr std::string_view seal_names[] = {"seal", "shrink", "grow", "write", "future_write", "exec"};
constexpr std::string_view luo_states[] = {"undefined", "normal", "prepared", "frozen", "updated"};
constexpr std::string_view callback_names[] = {"prepare", "freeze", "boot", "cancel", "finish"};
constexpr std::string_view raw_targets[] = {"luo"};
constexpr std::string_view counter_names[] = {
    "kho.preserved_folios", "kho.preserved_bytes", "kho.overhead_pages", "kho.map_pages", "luo.files", "mm.frames_in_use",
    "dma.completions", "dma.gaps", "dma.dry_ns", "dma.blackout_completions", "irq.lost", "iommu.faults", "guest.steps",
    "pci.config_writes", "p2p.writes"};
constexpr u64 u32_max = 0xffff'ffff;

FieldSpec descriptor() { return refers("fd", NameKind::descriptor, "the descriptor"); }
FieldSpec token() { return required("token", Type::number, "the token, chosen by the agent"); }

StepSpec memfd_content(StepId id, std::string_view name, std::string_view description, bool content_required) {
    return {.id = id, .name = name, .group = "memfd", .form = Form::map, .description = description,
        .fields = {descriptor(),
                   optional("offset", Type::size, "first byte; the position of the descriptor does not move", "0"),
                   either(optional("fill", Type::fill, "content by rule")),
                   either(optional("text", Type::text, "exact bytes")),
                   not_with(optional("length", Type::size, "bytes; by default up to the end of the file"), "text"),
                   optional("written", Type::size, "the bytes that the call must have moved, where it is cut short")},
        .choice_required = content_required};
}

void add_memfd(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "memfd";
    steps.push_back({.id = StepId::memfd_create, .name = "memfd.create", .group = group, .form = Form::map,
        .description = "memfd_create, ftruncate and, with `fill`, pwrite; the position stays 0.",
        .fields = {binds("name", NameKind::descriptor, "the name of the file and of the descriptor"),
                   required("size", Type::size, "bytes"),
                   optional("fill", Type::fill, "content; by default a hole"),
                   one_of(optional("flags", Type::choice_list, "flags of memfd_create"), memfd_flags)}});
    steps.push_back(memfd_content(StepId::memfd_write, "memfd.write", "pwrite; a short write is `ok` and must be stated by `written`.", true));
    steps.push_back(memfd_content(StepId::memfd_verify, "memfd.verify", "pread and comparison.", true));
    steps.push_back(memfd_content(StepId::memfd_read, "memfd.read", "pread; compares where a content is given.", false));
    steps.push_back({.id = StepId::memfd_truncate, .name = "memfd.truncate", .group = group, .form = Form::map,
        .description = "ftruncate.",
        .fields = {descriptor(), required("size", Type::size, "the new size")}});
    steps.push_back({.id = StepId::memfd_seek, .name = "memfd.seek", .group = group, .form = Form::map,
        .description = "lseek from the start.",
        .fields = {descriptor(), required("to", Type::size, "the new position")}});
    steps.push_back({.id = StepId::memfd_seal, .name = "memfd.seal", .group = group, .form = Form::map,
        .description = "fcntl(F_ADD_SEALS).",
        .fields = {descriptor(), one_of(required("seals", Type::choice_list, "seals to add"), seal_names)}});
    steps.push_back({.id = StepId::memfd_punch, .name = "memfd.punch", .group = group, .form = Form::map,
        .description = "fallocate that punches a hole.",
        .fields = {descriptor(), required("offset", Type::size, "first byte"), required("length", Type::size, "bytes")}});
    steps.push_back({.id = StepId::memfd_stat, .name = "memfd.stat", .group = group, .form = Form::map,
        .description = "Compares what the kernel says about the file.",
        .fields = {descriptor(), optional("size", Type::size, "its size"), optional("pos", Type::size, "its position"),
                   one_of(optional("seals", Type::choice_list, "its seals, exactly these"), seal_names),
                   optional("allocated", Type::size, "bytes that are no hole"),
                   optional("cloexec", Type::boolean, "whether this descriptor is closed on exec")}});
    steps.push_back({.id = StepId::memfd_close, .name = "memfd.close", .group = group, .form = Form::map,
        .description = "close.", .fields = {descriptor()}});
}

void add_agents(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Agents";
    steps.push_back({.id = StepId::agent_start, .name = "agent.start", .group = group, .form = Form::map,
        .description = "Starts a user-space agent; steps go on in the one that runs now.",
        .fields = {binds("name", NameKind::agent, "the name of the agent")}});
    steps.push_back({.id = StepId::agent_kill, .name = "agent.kill", .group = group, .form = Form::map,
        .description = "Kills an agent; the kernel closes its descriptors.",
        .fields = {refers("name", NameKind::agent, "the agent; `main` exists from boot")}});
    steps.push_back({.id = StepId::agent_switch, .name = "agent.switch", .group = group, .form = Form::map,
        .description = "The steps after it are that agent's.",
        .fields = {refers("name", NameKind::agent, "the agent; `main` exists from boot")}});
}

StepSpec luo_bare(StepId id, std::string_view name, std::string_view description, bool opens) {
    return {.id = id, .name = name, .group = "LUO", .form = Form::bare, .description = description, .opens_luo = opens};
}

void add_luo(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "LUO";
    steps.push_back(luo_bare(StepId::luo_open, "luo.open", "Opens /dev/liveupdate.", false));
    steps.push_back(luo_bare(StepId::luo_close, "luo.close", "Closes it; the agent does not open it again by itself.", false));
    steps.push_back({.id = StepId::luo_preserve, .name = "luo.preserve", .group = group, .form = Form::map,
        .description = "FD_PRESERVE.", .fields = {descriptor(), token()}, .opens_luo = true});
    steps.push_back({.id = StepId::luo_unpreserve, .name = "luo.unpreserve", .group = group, .form = Form::map,
        .description = "FD_UNPRESERVE.", .fields = {token()}, .opens_luo = true});
    steps.push_back(luo_bare(StepId::luo_prepare, "luo.prepare", "The event PREPARE.", true));
    steps.push_back(luo_bare(StepId::luo_freeze, "luo.freeze", "The self-test's FREEZE.", true));
    steps.push_back(luo_bare(StepId::luo_cancel, "luo.cancel", "The event CANCEL.", true));
    steps.push_back(luo_bare(StepId::luo_finish, "luo.finish", "The event FINISH.", true));
    steps.push_back({.id = StepId::luo_event, .name = "luo.event", .group = group, .form = Form::scalar,
        .description = "Sends any number through SET_EVENT.",
        .fields = {at_most(required("event", Type::number, "the number"), u32_max)}, .opens_luo = true});
    steps.push_back({.id = StepId::luo_restore, .name = "luo.restore", .group = group, .form = Form::map,
        .description = "FD_RESTORE.",
        .fields = {token(), binds("as", NameKind::descriptor, "the name of the new descriptor")}, .opens_luo = true});
    steps.push_back({.id = StepId::luo_fd_event, .name = "luo.fd_event", .group = group, .form = Form::map,
        .description = "SET_FD_EVENT: one event for one file.",
        .fields = {token(), at_most(required("event", Type::event, "the event"), u32_max)}, .opens_luo = true});
    steps.push_back({.id = StepId::luo_fd_state, .name = "luo.fd_state", .group = group, .form = Form::map,
        .description = "GET_FD_STATE, compared.",
        .fields = {token(), one_of(required("state", Type::choice, "the state that the file must be in"), luo_states),
                   optional("incoming", Type::boolean, "ask for a file that came from the previous kernel", "false")},
        .opens_luo = true});
    steps.push_back({.id = StepId::luo_state, .name = "luo.state", .group = group, .form = Form::scalar,
        .description = "Reads the state from sysfs and compares; needs no open device.",
        .fields = {one_of(required("state", Type::choice, "the state that LUO must be in"), luo_states)}});
    steps.push_back({.id = StepId::luo_raw, .name = "luo.raw", .group = group, .form = Form::map,
        .description = "Any ioctl, byte by byte.",
        .fields = {one_of(required("on", Type::choice, "what the ioctl goes to"), raw_targets),
                   at_most(required("request", Type::number, "the request's number"), u32_max),
                   required("bytes", Type::bytes, "the argument, as hex digits"),
                   optional("size", Type::size, "bytes of memory behind the argument; by default as many as are given"),
                   optional("reply", Type::bytes, "the argument as it must be after the call")},
        .opens_luo = true});
    steps.push_back({.id = StepId::luoctl, .name = "luoctl", .group = group, .form = Form::scalar,
        .description = "Runs the tool with these arguments; its result is `exit N`, or `ok` for `exit 0`.",
        .fields = {required("arguments", Type::text, "as `prepare`")}});
}

void add_subsystems(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Subsystems";
    const auto callback = [](std::string_view name) {
        return optional(name, Type::callback, "what its callback of this name returns", "ok");
    };
    steps.push_back({.id = StepId::subsystem_register, .name = "subsystem.register", .group = group, .form = Form::map,
        .description = "Registers a scripted subsystem. It fills its pages from its name, preserves them in prepare, compares "
                       "them in the next kernel's boot, restores and frees them in finish.",
        .fields = {binds("name", NameKind::subsystem, "its name"),
                   at_most(optional("pages", Type::number, "pages that it allocates", "1"), u64{1} << 30),
                   callback("prepare"), callback("freeze"), callback("boot"), callback("cancel"), callback("finish")}});
    steps.push_back({.id = StepId::subsystem_unregister, .name = "subsystem.unregister", .group = group, .form = Form::map,
        .description = "Takes the registration back and frees its pages.",
        .fields = {refers("name", NameKind::subsystem, "its name")}});
    FieldSpec calls = one_of(required("calls", Type::choice_list, "the callbacks in order"), callback_names);
    calls.repeats = true;
    steps.push_back({.id = StepId::subsystem_expect, .name = "subsystem.expect", .group = group, .form = Form::map,
        .description = "Compares the whole list of its callbacks since that registration in the running generation.",
        .fields = {refers("name", NameKind::subsystem, "its name"), calls}});
    steps.push_back({.id = StepId::file_handler_register, .name = "file_handler.register", .group = group, .form = Form::map,
        .description = "Registers a file handler that takes no file; EEXIST where the compatible is taken, EBUSY while an update is under way.",
        .fields = {required("compatible", Type::string, "what it calls its files, as `memfd-v1`")}});
    steps.push_back({.id = StepId::file_handler_unregister, .name = "file_handler.unregister", .group = group, .form = Form::map,
        .description = "Takes a file handler back, the kernel's own included; EBUSY while files are preserved through it.",
        .fields = {required("compatible", Type::string, "its compatible")}});
}

void add_modules(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Modules";
    steps.push_back({.id = StepId::module_load, .name = "module.load", .group = group, .form = Form::map,
        .description = "Loads a shared object with C code into the running kernel.",
        .fields = {required("file", Type::file, "the shared object")}});
    steps.push_back({.id = StepId::module_unload, .name = "module.unload", .group = group, .form = Form::map,
        .description = "Runs its exit function and unloads it.",
        .fields = {required("file", Type::file, "the shared object")}});
}

}  // namespace

void add_check_steps(std::vector<StepSpec>& steps) {
    constexpr std::string_view group = "Checks";
    steps.push_back({.id = StepId::expect_log, .name = "expect.log", .group = group, .form = Form::scalar,
        .description = "Looks for a substring of one line of the running kernel's log.",
        .fields = {required("text", Type::string, "the substring")}, .runs_when_dead = true});
    steps.push_back({.id = StepId::expect_counter, .name = "expect.counter", .group = group, .form = Form::map,
        .description = "Compares a counter.",
        .fields = {one_of(required("name", Type::choice, "the counter"), counter_names),
                   either(optional("eq", Type::size, "equal to")), either(optional("le", Type::size, "at most")),
                   either(optional("ge", Type::size, "at least"))},
        .choice_required = true, .runs_when_dead = true});
    steps.push_back({.id = StepId::expect_frames, .name = "expect.frames", .group = group, .form = Form::map,
        .description = "Counts the frames of an owner in the referee's books.",
        .fields = {required("owner", Type::string, "the owner"), required("count", Type::number, "frames")},
        .runs_when_dead = true});
    steps.push_back({.id = StepId::expect_memory_in_use, .name = "expect.memory_in_use", .group = group, .form = Form::map,
        .description = "Compares the memory in use with that at a mark.",
        .fields = {refers("same_as", NameKind::mark, "the mark")}, .runs_when_dead = true});
}

void add_user_steps(std::vector<StepSpec>& steps) {
    add_memfd(steps);
    add_agents(steps);
    add_luo(steps);
    add_subsystems(steps);
    add_modules(steps);
}

}  // namespace kexec_sim::sim
// clang-format on
