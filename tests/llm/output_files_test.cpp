// What the program writes: never over what is no regular file, and refused before any work.
//
// Devices here are nodes of their own in a temporary folder: a program that replaces its target
// must not be tried on those of the machine.

#include <filesystem>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "../../examples/support/atomic_file.hpp"
#include "test_files.hpp"

namespace {

using namespace rrs_llm_test;
using rrs_examples::AtomicFile;
namespace fs = std::filesystem;

mode_t kind_of(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode & S_IFMT : 0;
}

void write_atomically(const std::string& path) {
  AtomicFile file(path);
  file.write("new", 3);
  file.commit();
}

std::string refused_opening(const std::string& path) {
  return refusal([&] { const AtomicFile file(path); });
}

struct Target {
  std::string path;
  const char* kind;
};

// One of each kind that is no regular file; a device only where we may make one.
std::vector<Target> other_kinds(const TempFolder& folder) {
  std::vector<Target> targets;
  const auto add = [&](const char* name, const char* kind) -> const char* {
    targets.push_back({folder.file(name), kind});
    return targets.back().path.c_str();
  };
  fs::create_directory(add("folder", "a folder"));
  EXPECT_EQ(::mkfifo(add("fifo", "a FIFO"), 0600), 0);
  EXPECT_EQ(::mknod(add("socket", "a socket"), S_IFSOCK | 0600, 0), 0);
  fs::create_symlink(folder.write("file", "old"), add("link", "a symbolic link"));
  fs::create_symlink("nowhere", add("dangling", "a symbolic link"));
  if (::mknod(add("device", "a device"), S_IFCHR | 0600, makedev(1, 3)) != 0) targets.pop_back();
  return targets;
}

TEST(OutputFile, WhatIsNoRegularFileIsRefusedAndStays) {
  const TempFolder folder;
  const std::vector<Target> targets = other_kinds(folder);
  const std::vector<std::string> names = folder.list();
  for (const Target& t : targets) {
    const mode_t kind = kind_of(t.path);
    expect_in(refused_opening(t.path), {t.path, t.kind, "not replaced"});
    EXPECT_EQ(kind_of(t.path), kind) << t.path;
  }
  EXPECT_EQ(folder.list(), names);
  EXPECT_EQ(read_all(folder.file("file")), "old");
  write_atomically(folder.file("file"));
  EXPECT_EQ(read_all(folder.file("file")), "new");
  std::printf("kinds of targets: %zu\n", targets.size());
  EXPECT_GE(targets.size(), 5u);
}

TEST(OutputFile, ATargetThatChangesItsKindMeanwhileIsRefused) {
  const TempFolder folder;
  const std::string path = folder.file("out");
  {
    AtomicFile file(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    expect_in(refusal([&] { file.commit(); }), {path, "a FIFO", "not replaced"});
  }
  EXPECT_TRUE(S_ISFIFO(kind_of(path)));
  EXPECT_EQ(folder.list(), std::vector<std::string>{"out"});
}

TEST(OutputFile, FoldersAndNamesThatCannotTakeItAreRefusedAtOnce) {
  const TempFolder folder;
  const std::string file = folder.write("file", "old"), closed = folder.file("closed");
  fs::create_directory(closed);
  expect_in(refused_opening(folder.file("missing/x")), {"missing/x", "No such file or directory"});
  expect_in(refused_opening(file + "/x"), {"file/x", "Not a directory"});
  expect_in(refused_opening(folder.file(std::string(254, 'n'))), {"nnn", "File name too long"});
  expect_in(refused_opening(""), {"no name"});
  // Modes do not bind root.
  const bool root = ::geteuid() == 0;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(closed.c_str(), 0555), 0);
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string message = refused_opening(closed + "/x");
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  expect_in(message, {closed + "/x", "Permission denied"});
  EXPECT_EQ(folder.list().size(), 2u);
}

TEST(OutputFile, AMovedOneIsCommittedOnce) {
  const TempFolder folder;
  const std::string path = folder.file("out");
  {
    AtomicFile first(path);
    first.write("whole", 5);
    AtomicFile second(std::move(first));
    EXPECT_EQ(second.path(), path);
    second.commit();
  }
  EXPECT_EQ(read_all(path), "whole");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"out"});
}

}  // namespace
