#include "base/file.h"

#include <errno.h>
#include <fcntl.h>

#include "base/strbuf.h"

struct tm_error *tm_file_read_all(const char *path, char **text, size_t *size)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char chunk[16384];
	ssize_t n;

	if (fd < 0)
		return tm_error_errno(errno, "cannot open %s", path);
	while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tm_error_errno(errno, "cannot read %s", path);
		tm_strbuf_append(&buf, chunk, (size_t)n);
	}
	if (size)
		*size = buf.length;
	*text = tm_strbuf_steal(&buf);
	return *text ? NULL : tm_error_out_of_memory();
}
