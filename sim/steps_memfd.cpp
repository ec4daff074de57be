// memfd.*: system calls of the current agent on its memfds.
#include <algorithm>
#include <cstring>
#include <fmt/format.h>

#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

constexpr u64 chunk_bytes = MiB;

constexpr struct {
    std::string_view name;
    u32 bit;
} seal_table[] = {
    {"seal", F_SEAL_SEAL_BIT},
    {"shrink", F_SEAL_SHRINK_BIT},
    {"grow", F_SEAL_GROW_BIT},
    {"write", F_SEAL_WRITE_BIT},
    {"future_write", F_SEAL_FUTURE_WRITE_BIT},
    {"exec", F_SEAL_EXEC_BIT},
};

u32 seal_bits(const std::vector<std::string>& names) {
    u32 bits = 0;
    for (const std::string& name : names)
        for (const auto& seal : seal_table)
            if (seal.name == name) bits |= seal.bit;
    return bits;
}
std::string seal_names(u32 bits) {
    std::string text;
    for (const auto& seal : seal_table)
        if (bits & seal.bit) text += fmt::format("{}{}", text.empty() ? "" : " ", seal.name);
    return text.empty() ? "none" : text;
}

Result<std::shared_ptr<ShmemFile>> file_of(KernelInstance& instance, std::string_view name) {
    Agent* agent = instance.agent();
    const FileRef file = TRY(agent->get(instance.fd(name)));
    auto memfd = std::dynamic_pointer_cast<ShmemFile>(file);
    if (!memfd) return fail(Errno::einval);
    return memfd;
}

Content content_of(const Step& step, u64 file_size) {
    const u64 offset = step.find_u64("offset").value_or(0);
    if (step.has("text")) {
        const std::string& text = step.get_text("text");
        return {Fill{Fill::Kind::text, 0, text}, offset, text.size()};
    }
    const Fill fill = step.has("fill") ? step.get_fill("fill") : Fill{};
    const u64 rest = file_size > offset ? file_size - offset : 0;
    return {fill, offset, step.find_u64("length").value_or(rest)};
}

Result<u64> write_content(ShmemFile& file, const Content& content) {
    std::vector<std::byte> buffer(std::min(chunk_bytes, content.length));
    u64 done = 0;
    while (done < content.length) {
        // Cut at page boundaries, as the kernel cuts a long write: what is refused is refused in the same places.
        const u64 into_page = (content.offset + done) % page_bytes;
        const u64 count = std::min(chunk_bytes - into_page, content.length - done);
        content.bytes(done, std::span(buffer).first(count));
        const auto written = file.write(content.offset + done, std::span(buffer).first(count));
        if (!written) {
            if (done) return done;
            return fail(written.error());
        }
        done += *written;
        if (*written < count) break;
    }
    return done;
}

StepResult create(KernelInstance& instance, const Step& step) {
    MemfdFlags flags;
    if (step.has("flags"))
        for (const std::string& flag : step.get_list("flags")) {
            if (flag == "cloexec") flags.cloexec = true;
            if (flag == "allow_sealing") flags.allow_sealing = true;
            if (flag == "hugetlb") flags.hugetlb = true;
            if (flag == "noexec_seal") flags.noexec_seal = true;
            if (flag == "exec") flags.exec = true;
        }
    const auto file = memfd_create_file(instance.kernel, step.get_name("name"), step.get_u64("size"), flags);
    if (!file) return file.error();
    FileCopy& copy = instance.file_copies[(*file)->id()];
    copy.resized(step.get_u64("size"));
    if (step.has("fill") && step.get_fill("fill").kind != Fill::Kind::zero && !flags.hugetlb) {
        const Content content{step.get_fill("fill"), 0, step.get_u64("size")};
        const auto written = write_content(**file, content);
        if (!written) return written.error();
        if (*written != content.length) return Errno::enomem;
        copy.written(content, *written);
    }
    const auto fd = instance.agent()->install(*file, flags.cloexec);
    if (!fd) return fd.error();
    instance.bind_fd(step.get_name("name"), *fd);
    return {};
}

StepResult write(ShmemFile& file, FileCopy* copy, const Step& step) {
    const Content content = content_of(step, file.size());
    const auto written = write_content(file, content);
    if (!written) return written.error();
    if (copy) copy->written(content, *written);
    const u64 expected = step.find_u64("written").value_or(content.length);
    if (*written != expected)
        return StepResult::mismatch(
            fmt::format("{} of {} bytes written, expected {}", *written, content.length, expected));
    return {};
}

StepResult verify(const ShmemFile& file, const Step& step) {
    const Content content = content_of(step, file.size());
    const bool compares = step.has("fill") || step.has("text");
    if (compares && content.length == 0 && !step.has("length"))
        return StepResult::mismatch(fmt::format("there is nothing to compare: the file has {} bytes, from {:#x} on",
                                                file.size(), content.offset));
    const auto expected = step.find_u64("written");
    std::vector<std::byte> found(std::min(chunk_bytes, content.length)), wanted(found.size());
    u64 done = 0;
    while (done < content.length) {
        const u64 count = std::min(chunk_bytes, content.length - done);
        const auto got = file.read(content.offset + done, std::span(found).first(count));
        if (!got) return got.error();
        content.bytes(done, std::span(wanted).first(count));
        const bool differs = compares && std::memcmp(found.data(), wanted.data(), *got) != 0;
        for (u64 i = 0; differs && i < *got; ++i)
            if (found[i] != wanted[i])
                return StepResult::mismatch(difference_text(content.offset + done + i, static_cast<u8>(found[i]),
                                                            static_cast<u8>(wanted[i])));
        done += *got;
        if (*got < count) break;
    }
    if (expected && done != *expected)
        return StepResult::mismatch(fmt::format("{} of {} bytes read, expected {}", done, content.length, *expected));
    if (!expected && done < content.length)
        return StepResult::mismatch(fmt::format("the file ends at {:#x}, expected bytes up to {:#x}",
                                                content.offset + done, content.offset + content.length));
    return {};
}

StepResult truncate(ShmemFile& file, FileCopy* copy, u64 size) {
    const auto result = file.truncate(size);
    if (result && copy) copy->resized(size);
    return result;
}

StepResult punch(ShmemFile& file, FileCopy* copy, u64 offset, u64 length) {
    const auto result = file.punch_hole(offset, length);
    if (result && copy) copy->punched(offset, length);
    return result;
}

StepResult stat(const ShmemFile& file, bool cloexec, const Step& step) {
    const auto differs = [](std::string_view what, u64 found, u64 wanted) {
        return StepResult::mismatch(fmt::format("{} is {}, expected {}", what, found, wanted));
    };
    if (const auto size = step.find_u64("size"); size && *size != file.size())
        return differs("size", file.size(), *size);
    if (const auto pos = step.find_u64("pos"); pos && *pos != file.pos) return differs("pos", file.pos, *pos);
    if (const auto allocated = step.find_u64("allocated"); allocated && *allocated != file.allocated_bytes())
        return differs("allocated", file.allocated_bytes(), *allocated);
    if (step.has("cloexec") && step.get_bool("cloexec") != cloexec)
        return StepResult::mismatch(fmt::format("close-on-exec is {}, expected {}", cloexec ? "set" : "not set",
                                                cloexec ? "not set" : "set"));
    if (step.has("seals") && seal_bits(step.get_list("seals")) != file.seals)
        return StepResult::mismatch(fmt::format("seals are {}, expected {}", seal_names(file.seals),
                                                seal_names(seal_bits(step.get_list("seals")))));
    return {};
}

}  // namespace

StepResult run_memfd_step(KernelInstance& instance, const Step& step) {
    if (step.id == StepId::memfd_create) return create(instance, step);
    if (step.id == StepId::memfd_close) {
        const i32 fd = instance.fd(step.get_name("fd"));
        instance.forget_fd(step.get_name("fd"));
        return instance.agent()->close(fd);
    }
    const auto found = file_of(instance, step.get_name("fd"));
    if (!found) return found.error();
    ShmemFile& file = **found;
    // None of a file that came from the previous kernel.
    const auto at = instance.file_copies.find(file.id());
    FileCopy* copy = at == instance.file_copies.end() ? nullptr : &at->second;
    if (step.id == StepId::memfd_write) return write(file, copy, step);
    if (step.id == StepId::memfd_verify || step.id == StepId::memfd_read) return verify(file, step);
    if (step.id == StepId::memfd_truncate) return truncate(file, copy, step.get_u64("size"));
    if (step.id == StepId::memfd_seal) return file.add_seals(seal_bits(step.get_list("seals")));
    if (step.id == StepId::memfd_punch) return punch(file, copy, step.get_u64("offset"), step.get_u64("length"));
    if (step.id == StepId::memfd_stat) {
        const auto descriptor = instance.agent()->descriptor(instance.fd(step.get_name("fd")));
        return stat(file, descriptor && (*descriptor)->cloexec, step);
    }
    INVARIANT(step.id == StepId::memfd_seek);
    file.pos = step.get_u64("to");
    return {};
}

}  // namespace kexec_sim::sim
